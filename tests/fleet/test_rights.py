"""What the accounts of the manifests may do on a real API server: what docs/fleet.md says, and no more."""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import pytest

from tests.fleet.api import Api, Object
from tests.fleet.control_plane import ControlPlane
from tests.fleet.manifests import NAMESPACES, OVERLAYS, applied, write_overlay
from tests.paths import REPOSITORY
from tests.whole_gateway import eventually

PAGE = REPOSITORY / "docs/fleet.md"
EVERY_ACCOUNT, WHOLE_CLUSTER = "every account", "the whole cluster"
ANONYMOUS = "system:anonymous"
# Of Kubernetes, for every account: version, health, the list of the resources, and public keys.
PUBLIC_URLS = re.compile(
    r"/(apis?|openapi|version)(/\*?)?|/(healthz|livez|readyz)"
    r"|/\.well-known/openid-configuration/?|/openid/v1/jwks/?"
)
# Verbs that no resource is listed with, as RBAC asks for them.
SPECIAL = {
    ("", "users"): ["impersonate"],
    ("", "groups"): ["impersonate"],
    ("", "serviceaccounts"): ["impersonate"],
    ("authentication.k8s.io", "uids"): ["impersonate"],
    ("rbac.authorization.k8s.io", "roles"): ["bind", "escalate"],
    ("rbac.authorization.k8s.io", "clusterroles"): ["bind", "escalate"],
    ("certificates.k8s.io", "signers"): ["approve", "attest", "sign"],
}
# If one of them were not asked for, the list of resources would be wrong.
DANGEROUS = {
    ("create", "pods/exec"),
    ("get", "pods/exec"),
    ("create", "pods/attach"),
    ("get", "pods/log"),
    ("update", "pods/ephemeralcontainers"),
    ("create", "pods/binding"),
    ("create", "serviceaccounts/token"),
    ("get", "nodes/proxy"),
    ("patch", "nodes"),
    ("list", "secrets"),
    ("deletecollection", "persistentvolumeclaims"),
    ("update", "resourceclaims/status.resource.k8s.io"),
    ("create", "rolebindings.rbac.authorization.k8s.io"),
    ("bind", "clusterroles.rbac.authorization.k8s.io"),
    ("escalate", "roles.rbac.authorization.k8s.io"),
    ("impersonate", "users"),
    ("delete", "validatingadmissionpolicies.admissionregistration.k8s.io"),
}


class Right(NamedTuple):
    """`resource` is such as `pods/exec` or `pipes.sshpiper.com`. `name` is "" for objects of any name."""

    verb: str
    resource: str
    name: str = ""


class Question(NamedTuple):
    """`namespace` is "" for all namespaces, or for a resource that is in none."""

    right: Right
    namespace: str


Table = Mapping[tuple[str, str], set[Right]]  # by account and namespace


@pytest.fixture(scope="module")
def plane_with_manifests(
    plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ControlPlane]:
    """All overlays and components together, so that a right of any of them counts."""
    with_egress = write_overlay(tmp_path_factory.mktemp("rights") / "overlay", "egress")
    with applied(plane, *(f"overlays/{name}" for name in OVERLAYS), with_egress, "first-token"):
        eventually(lambda: len(accounts(plane.api())) >= len(NAMESPACES) + 2, 60)
        yield plane


@pytest.fixture(scope="module")
def api(plane_with_manifests: ControlPlane) -> Api:
    return plane_with_manifests.api()


@pytest.fixture(scope="module")
def table() -> Table:
    """The table of the page. A row is an account, a namespace, resources and verbs."""
    _, _, rights = PAGE.read_text().partition("\n## Rights\n")
    rows = [line.strip("|").split("|") for line in rights.partition("\n## ")[0].splitlines() if "| " in line]
    found: dict[tuple[str, str], set[Right]] = {}
    for account, namespace, resources, verbs, *_ in rows[1:]:
        kinds, _, name = resources.replace("`", "").strip().partition(", only ")
        of_place = found.setdefault((_plain(account), _plain(namespace)), set())
        of_place.update(
            Right(verb, kind, name) for kind in kinds.split(", ") for verb in verbs.strip().split(", ")
        )
    return found


def test_the_rules_of_each_account_are_the_table(
    plane_with_manifests: ControlPlane, api: Api, table: Table
) -> None:
    for account in accounts(api):
        for namespace in namespaces(api):
            rules, urls = rules_of(plane_with_manifests.api(f"system:serviceaccount:{account}"), namespace)
            assert rules == expected(table, account, namespace), f"{account} in {namespace}"
            assert all(verb == "get" and PUBLIC_URLS.fullmatch(url) for verb, url in urls), account


def test_the_api_server_refuses_whatever_is_not_in_the_table(api: Api, table: Table) -> None:
    questions = all_questions(api)
    assert {(right.verb, right.resource) for right, _ in questions} > DANGEROUS
    for account in [*accounts(api), ANONYMOUS]:
        wrong = [
            f"{right.verb} {right.resource} in {namespace or 'the cluster'}"
            for right, namespace in questions
            if is_allowed(api, account, right, namespace) != (right in expected(table, account, namespace))
        ]
        assert wrong == [], account


def test_a_right_to_one_object_is_one_to_its_name_alone(api: Api, table: Table) -> None:
    named = [(*place, right) for place, rights in table.items() for right in rights if right.name]
    assert named
    for account, place, right in named:
        namespace = "" if place == WHOLE_CLUSTER else place
        assert is_allowed(api, account, right, namespace)
        assert not is_allowed(api, account, right._replace(name="another"), namespace)


def test_the_table_names_accounts_and_namespaces_that_exist(api: Api, table: Table) -> None:
    assert {account for account, _ in table} <= {*accounts(api), EVERY_ACCOUNT}
    assert {namespace for _, namespace in table} <= {*namespaces(api), WHOLE_CLUSTER}


def accounts(api: Api) -> list[str]:
    """As NAMESPACE:NAME."""
    return [
        f"{namespace}:{found['metadata']['name']}"
        for namespace in NAMESPACES
        for found in api.list("v1/serviceaccounts", namespace)
    ]


def namespaces(api: Api) -> list[str]:
    return [found["metadata"]["name"] for found in api.list("v1/namespaces")]


def expected(table: Table, account: str, namespace: str) -> set[Right]:
    """What the table gives in this namespace, and everywhere."""
    places = {(account, namespace), (account, WHOLE_CLUSTER)}
    if account != ANONYMOUS:
        places.add((EVERY_ACCOUNT, WHOLE_CLUSTER))
    return {right for place in places for right in table.get(place, ())}


def rules_of(acting: Api, namespace: str) -> tuple[set[Right], set[tuple[str, str]]]:
    """The rights of the account that asks, and the verbs and URLs that are no resources."""
    status = _review(acting, "SelfSubjectRulesReview", {"namespace": namespace})
    assert not status["incomplete"]
    rights = {
        Right(verb, _joined(group, resource), name)
        for rule in status["resourceRules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames") or [""]
    }
    urls = {
        (verb, url)
        for rule in status["nonResourceRules"]
        for verb in rule["verbs"]
        for url in rule["nonResourceURLs"]
    }
    return rights, urls


def all_questions(api: Api) -> list[Question]:
    """Each verb of each resource that the API server has, in each namespace and in all of them."""
    found = namespaces(api)
    return [
        Question(Right(verb, _joined(group, resource["name"])), namespace)
        for group, resource in _resources(api)
        for verb in resource["verbs"]
        for namespace in (["", *found] if resource["namespaced"] else [""])
    ]


def _resources(api: Api) -> Iterator[tuple[str, Object]]:
    groups = {each["name"]: each["versions"] for each in api.ask("GET", "/apis")["groups"]}
    yield from (("", each) for each in api.ask("GET", "/api/v1")["resources"])
    for group, versions in groups.items():
        for version in versions:
            found = api.ask("GET", f"/apis/{version['groupVersion']}")["resources"]
            yield from ((group, each) for each in found)
    for (group, name), verbs in SPECIAL.items():
        is_in_namespaces = name in ("roles", "serviceaccounts")
        yield group, {"name": name, "verbs": verbs, "namespaced": is_in_namespaces}


def is_allowed(api: Api, account: str, right: Right, namespace: str) -> bool:
    kind, _, group = right.resource.partition(".")
    resource, _, part = kind.partition("/")
    attributes = {"verb": right.verb, "group": group, "resource": resource, "subresource": part}
    user = {"user": ANONYMOUS, "groups": ["system:unauthenticated"]}
    if account != ANONYMOUS:
        home = account.partition(":")[0]
        groups = ["system:authenticated", "system:serviceaccounts", f"system:serviceaccounts:{home}"]
        user = {"user": f"system:serviceaccount:{account}", "groups": groups}
    asked = {**attributes, "namespace": namespace, "name": right.name}
    return bool(_review(api, "SubjectAccessReview", {**user, "resourceAttributes": asked})["allowed"])


def _review(api: Api, kind: str, spec: Object) -> Object:
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec}
    status: Object = api.ask("POST", f"/apis/authorization.k8s.io/v1/{kind.lower()}s", review)["status"]
    return status


def _joined(group: str, resource: str) -> str:
    return f"{resource}.{group}" if group else resource


def _plain(cell: str) -> str:
    return cell.replace("`", "").strip()
