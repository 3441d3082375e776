"""The admission policies of docker/kubernetes on a real API server: what gateway and routers make passes, and
each rule refuses what it is for."""

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from gateway.repositories.kubernetes import api as kubernetes_api
from gateway.repositories.kubernetes.cordons import Cordons
from gateway.repositories.kubernetes.gpus import ClusterGpus
from tests.fleet import admission_cases as cases
from tests.fleet import manifests
from tests.fleet.admission_cases import ACCEPTED, REFUSED, Case, changed
from tests.fleet.api import Api, Object, Refused
from tests.fleet.control_plane import ControlPlane
from tests.fleet.manifests import GATEWAY, ROUTER
from tests.fleet.nodes import add_node, gpus_of_a_node, remove_node
from tests.whole_gateway import eventually

POLICIES = "admissionregistration.k8s.io/v1/validatingadmissionpolicies"
IMAGES = "session-images"
NODE = "fake-1"
ENDS_WITH_GRACE_0 = "The gateway ends no session with a grace of 0."
DRY = "dryRun=All"


@pytest.fixture(scope="module")
def applied(plane: ControlPlane) -> Iterator[ControlPlane]:
    """The cluster with the manifests, once each of their policies is in force."""
    admin = plane.api()
    with manifests.applied(plane, "overlays/embedded-router"):
        account = {"name": cases.ACCOUNT, "namespace": "gpu-sessions"}
        admin.create("v1/serviceaccounts", {"metadata": account, "automountServiceAccountToken": False})
        runtime = {"metadata": {"name": cases.RUNTIME}, "handler": cases.RUNTIME}
        admin.create("node.k8s.io/v1/runtimeclasses", runtime)
        # Without this label, the API server refuses administrative access by itself.
        labels = {"resource.kubernetes.io/admin-access": "true"}
        admin.change("v1/namespaces", "gpu-sessions", {"metadata": {"labels": labels}})
        eventually(lambda: all(refusal_of(plane, of_policy[0]) for of_policy in REFUSED.values()), 60)
        eventually(lambda: not refusal(plane.api(GATEWAY), *ACCEPTED["a pod"]), 60)
        yield plane
        admin.delete("node.k8s.io/v1/runtimeclasses", cases.RUNTIME)


@pytest.fixture
def gateway(applied: ControlPlane) -> Api:
    """The API with the rights of the gateway."""
    return applied.api(GATEWAY)


@pytest.fixture
def session(gateway: Api, applied: ControlPlane) -> Iterator[Api]:
    """The pod of a session exists. The API has the rights of the gateway."""
    gateway.create(cases.PODS, cases.pod())
    yield gateway
    applied.api().delete(cases.PODS, cases.NAME, "gpu-sessions", grace=0)
    eventually(lambda: not applied.api().get(cases.PODS, cases.NAME, "gpu-sessions"), 60)


def refusal_of(plane: ControlPlane, case: Case) -> str:
    return refusal(plane.api(case.user), case.collection, case.manifest)


def refusal(api: Api, collection: str, manifest: Object) -> str:
    """Return why the API does not create the object, which is not made in any case; "" if it accepts it."""
    return _refusal(api, "POST", _path(collection, manifest["metadata"].get("namespace")), manifest)


def refusal_of_change(api: Api, collection: str, name: str, namespace: str, change: Object) -> str:
    merge = {"Content-Type": "application/merge-patch+json"}
    return _refusal(api, "PATCH", f"{_path(collection, namespace)}/{name}", change, **merge)


def refusal_of_end(api: Api, collection: str, name: str, namespace: str | None, **options: Any) -> str:
    return _refusal(api, "DELETE", f"{_path(collection, namespace)}/{name}", options or None)


def _refusal(api: Api, method: str, path: str, body: Object | None, **headers: str) -> str:
    try:
        api.ask(method, f"{path}?{DRY}", body, **headers)
    except Refused as error:
        return error.message
    return ""


def _path(collection: str, namespace: str | None) -> str:
    version, _, plural = collection.rpartition("/")
    base = "/api/v1" if version == "v1" else f"/apis/{version}"
    return f"{base}/namespaces/{namespace}/{plural}" if namespace else f"{base}/{plural}"


def test_the_policies_have_no_error_that_the_api_server_sees(applied: ControlPlane) -> None:
    def checked() -> list[Object]:
        found = applied.api().list(POLICIES)
        return found if all("typeChecking" in (each.get("status") or {}) for each in found) else []

    for policy in eventually(checked, 60):
        warnings = policy["status"]["typeChecking"].get("expressionWarnings")
        assert not warnings, f"{policy['metadata']['name']}: {warnings}"


def test_each_rule_of_the_policies_has_a_case_here(applied: ControlPlane) -> None:
    rules = {
        policy["metadata"]["name"]: {rule["message"] for rule in policy["spec"]["validations"]}
        for policy in applied.api().list(POLICIES)
    }
    refused = {policy: {case.message for case in of_policy} for policy, of_policy in REFUSED.items()}
    assert rules == {**refused, "gpu-sessions-ends": {ENDS_WITH_GRACE_0}}


@pytest.mark.parametrize("what", ACCEPTED)
def test_what_the_gateway_makes_is_accepted(gateway: Api, what: str) -> None:
    assert refusal(gateway, *ACCEPTED[what]) == ""


def test_what_a_router_reports_is_accepted(applied: ControlPlane) -> None:
    assert refusal(applied.api(ROUTER), cases.CONFIG_MAPS, cases.report()) == ""


@pytest.mark.parametrize(
    ("policy", "case"),
    [
        pytest.param(policy, case, id=f"{policy}-{number}")
        for policy, of_policy in REFUSED.items()
        for number, case in enumerate(of_policy)
    ],
)
def test_what_breaks_a_rule_is_refused_with_its_message(
    applied: ControlPlane, policy: str, case: Case
) -> None:
    of_policy = f"ValidatingAdmissionPolicy '{policy}' with binding '{policy}' denied request: "
    assert refusal_of(applied, case).endswith(of_policy + case.message)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "hostNetwork"), True),
        (("spec", "hostPID"), True),
        (("spec", "volumes", 0), {"name": "home", "hostPath": {"path": "/"}}),
        (("spec", "containers", 0, "securityContext", "privileged"), True),
        (("spec", "containers", 0, "securityContext", "capabilities"), {"add": ["NET_ADMIN"]}),
        (("spec", "containers", 0, "livenessProbe"), {"tcpSocket": {"host": "10.0.0.1", "port": 22}}),
    ],
)
def test_a_pod_with_more_than_the_restricted_standard_allows_is_refused(
    gateway: Api, path: cases.Path, value: object
) -> None:
    refused = refusal(gateway, cases.PODS, changed(cases.pod(), *path, value=value))
    assert "PodSecurity" in refused or "privileged" in refused


def test_a_pod_keeps_the_form_of_a_session_when_it_is_changed(session: Api) -> None:
    def change(**parts: Object) -> str:
        return refusal_of_change(session, cases.PODS, cases.NAME, "gpu-sessions", parts)

    assert change(metadata={"annotations": {"note": "renewed"}}) == ""
    assert "the home of its uid" in change(metadata={"labels": {"gpu-ssh-gateway.io/uid": "20008"}})
    image = [{"name": "session", "image": "docker.io/another"}]
    patch = {"Content-Type": "application/strategic-merge-patch+json"}
    path = f"/api/v1/namespaces/gpu-sessions/pods/{cases.NAME}"
    assert "session-images" in _refusal(session, "PATCH", path, {"spec": {"containers": image}}, **patch)


def test_a_session_is_renewed_after_its_image_left_the_list(session: Api, applied: ControlPlane) -> None:
    another = cases.pod(session_id=str(uuid4()))

    def list_images(images: str) -> None:
        applied.api().change("v1/configmaps", IMAGES, {"data": {"images": images}}, "gpu-gateway")

    list_images("docker.io/another")
    try:
        eventually(lambda: "session-images" in refusal(session, cases.PODS, another), 60)
        note: Object = {"metadata": {"annotations": {"note": "renewed"}}}
        assert refusal_of_change(session, cases.PODS, cases.NAME, "gpu-sessions", note) == ""
    finally:
        list_images(cases.IMAGE)
        eventually(lambda: not refusal(session, cases.PODS, another), 60)


def test_the_gateway_ends_a_session_on_a_node_with_a_grace_alone(session: Api, applied: ControlPlane) -> None:
    def end(api: Api, **options: Any) -> str:
        return refusal_of_end(api, cases.PODS, cases.NAME, "gpu-sessions", dryRun=["All"], **options)

    assert end(session, gracePeriodSeconds=1) == ""  # before it has a node
    binding = {"metadata": {"name": cases.NAME}, "target": {"kind": "Node", "name": NODE}}
    path = f"/api/v1/namespaces/gpu-sessions/pods/{cases.NAME}/binding"
    applied.api().ask("POST", path, {"apiVersion": "v1", "kind": "Binding", **binding})
    assert ENDS_WITH_GRACE_0 in end(session, gracePeriodSeconds=0)
    assert end(session, gracePeriodSeconds=1) == end(session) == ""
    assert end(applied.api(), gracePeriodSeconds=0) == ""  # an administrator, whose node does not come back
    ended = {"status": {"phase": "Failed"}}
    applied.api().change(cases.PODS, f"{cases.NAME}/status", ended, "gpu-sessions")
    assert end(session, gracePeriodSeconds=1) == ""


def test_the_gateway_changes_and_removes_nothing_of_others_in_the_namespace_of_the_routes(
    applied: ControlPlane, gateway: Api
) -> None:
    admin = applied.api()
    for collection, made in (
        (cases.PIPES, cases.route()),
        (cases.SECRETS, cases.key_of_route()),
        (cases.CONFIG_MAPS, cases.notice()),
    ):
        others = admin.create(collection, changed(made, "metadata", "name", value="of-others"))
        own = gateway.create(collection, made)
        for found, message in ((others, "its routes and notices alone"), (own, "")):
            name, label = found["metadata"]["name"], {"metadata": {"labels": {"changed": "yes"}}}
            assert message in refusal_of_change(gateway, collection, name, "gpu-routes", label)
            assert message in refusal_of_end(gateway, collection, name, "gpu-routes")
            if not message:
                assert refusal_of_end(gateway, collection, name, "gpu-routes") == ""
            admin.delete(collection, name, "gpu-routes")


def test_an_administrator_makes_a_home_from_a_backup(applied: ControlPlane) -> None:
    source = {"kind": "PersistentVolumeClaim", "name": "backup"}
    made = changed(cases.home(), "spec", "dataSource", value=source)
    assert refusal(applied.api(), cases.HOMES, made) == ""


def test_the_gateway_cordons_a_gpu_and_removes_the_cordon(
    applied: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus, admin = gpus_of_a_node(), applied.api()
    add_node(admin, NODE, gpus)
    monkeypatch.setenv("KUBECONFIG", str(applied.kubeconfig_of("gateway", "gpu-gateway")))
    api = kubernetes_api.connect()
    cordons = Cordons(api, ClusterGpus(api, "gpu-sessions"), lambda: "d1")
    admin.create(cases.TAINT_RULES, changed(cases.cordon(), "metadata", value={"name": "repair"}))
    try:
        cordons.set([gpu.uuid for gpu in gpus])
        assert len(admin.list(cases.TAINT_RULES)) > 1
        cordons.set([])
        assert [each["metadata"]["name"] for each in admin.list(cases.TAINT_RULES)] == ["repair"]
        refused = refusal_of_end(applied.api(GATEWAY), cases.TAINT_RULES, "repair", None)
        assert "The rules of the gateway are named" in refused
    finally:
        admin.delete(cases.TAINT_RULES, "repair")
        remove_node(admin, NODE)
