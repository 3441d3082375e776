"""Objects that the admission policies of the manifests accept, and what each of their rules refuses."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from gateway.domain.mig import Placement, Profile
from gateway.domain.plan import SessionRequest
from gateway.domain.ssh_keys import make_pair
from gateway.domain.ssh_logins import Datagram, Kind, LoginReport
from gateway.repositories.kubernetes import objects
from gateway.repositories.kubernetes.cordons import taint_rule
from gateway.repositories.kubernetes.facts import DeviceName
from gateway.repositories.kubernetes.login_reports import report_object
from gateway.repositories.kubernetes.notices import NOTICES
from tests.fakes.cluster_host import SITE
from tests.fakes.pipe_parts import pipe
from tests.fleet.api import Object
from tests.fleet.manifests import GATEWAY, MANIFESTS, ROUTER

SESSION = "0c6a2c3e-9d0b-4a57-8a7c-53a1d6f1c8aa"
NAME = f"s-{SESSION}"
IMAGE = (MANIFESTS / "base/session-images.txt").read_text().strip()
ACCOUNT, RUNTIME = "another", "nvidia"  # an account in gpu-sessions and a RuntimeClass, which cases need
PODS, SECRETS, CLAIMS = "v1/pods", "v1/secrets", "resource.k8s.io/v1/resourceclaims"
HOMES, PIPES, CONFIG_MAPS = "v1/persistentvolumeclaims", "sshpiper.com/v1beta1/pipes", "v1/configmaps"
TAINT_RULES = "resource.k8s.io/v1/devicetaintrules"
_SITE = replace(SITE, image=IMAGE)
_PROFILE = Profile("3g.20gb", 9, 3, 19968, 2, (Placement(0, 4), Placement(4, 4)))
_BEGINS = datetime(2026, 1, 17, 8, tzinfo=UTC)
_REQUEST = SessionRequest(
    session_id=SESSION,
    user_id="ann",
    uid=20007,
    mig_profile="3g.20gb",
    created_at=_BEGINS,
    expires_at=_BEGINS + timedelta(hours=1),
    router_key="ssh-ed25519 AAAA router",
    host_key=make_pair(),
)

_ADVICE = objects.Advice("node-1", "GPU-1")

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Case:
    """A change of an accepted object, which is then refused by the rule with this message."""

    message: str
    collection: str
    manifest: Object
    user: str = GATEWAY


def pod(advice: objects.Advice | None = None, session_id: str = SESSION) -> Object:
    return objects.pod(_SITE, replace(_REQUEST, session_id=session_id), _PROFILE, "d1", advice)


def claim(profile: str = "3g.20gb", advice: objects.Advice | None = None) -> Object:
    return objects.device_claim(_SITE, _REQUEST, profile, "d1", advice)


def files() -> Object:
    return objects.secret(_SITE, _REQUEST, _PROFILE, "d1")


def home() -> Object:
    return objects.volume_claim(_SITE, _REQUEST, "d1")


def route() -> Object:
    return objects.pipe(_SITE, pipe(SESSION), "d1")[1]


def key_of_route() -> Object:
    return objects.pipe(_SITE, pipe(SESSION), "d1")[0]


def notice() -> Object:
    return {"metadata": {"name": f"n-{'0' * 40}", "namespace": "gpu-routes"}, "data": {"notice": "{}"}}


def report() -> Object:
    heard = Datagram([LoginReport(Kind.ACCEPTED, 0.0, "ann", "203.0.113.7")])
    return report_object("gpu-routes", "logins-router-1-0", heard)


def cordon() -> Object:
    return taint_rule(DeviceName("node-1", "gpu-0-mig-1g5gb-19-0"), "GPU-1", "d1")


def changed(manifest: Object, *path: str | int, value: Any) -> Object:
    """A copy with another value at the path; None removes it."""
    made = copy.deepcopy(manifest)
    inner: Any = made
    for step in path[:-1]:
        inner = inner[step]
    if value is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return made


ACCEPTED = {
    "a home": (HOMES, home()),
    "the files of a session": (SECRETS, files()),
    "a claim": (CLAIMS, claim()),
    "a claim for media engines": (CLAIMS, claim("1g.5gb+me")),
    "a claim with advice": (CLAIMS, claim(advice=_ADVICE)),
    "a pod": (PODS, pod()),
    "a pod with advice": (PODS, pod(_ADVICE)),
    "a route": (PIPES, route()),
    "the key of a route": (SECRETS, key_of_route()),
    "the keys of the lobby": (SECRETS, changed(key_of_route(), "metadata", "name", value="lobby")),
    "a notice": (CONFIG_MAPS, notice()),
    "a cordon": (TAINT_RULES, cordon()),
}


def _pods() -> Iterator[Case]:
    """Each change of a pod."""

    def refused(message: str, *path: str | int, value: Any) -> Case:
        return Case(message, PODS, changed(pod(), *path, value=value))

    one: Path = ("spec", "containers", 0)
    yield refused("The pod of a session is named s-SESSION.", "metadata", "name", value="s-another")
    second = {**pod()["spec"]["containers"][0], "name": "second"}
    for kind, containers in (
        ("containers", [*pod()["spec"]["containers"], second]),
        ("initContainers", [second]),
    ):
        yield refused("A session has one container.", "spec", kind, value=containers)
    yield refused(
        "The image is not in the ConfigMap session-images.", *one, "image", value="docker.io/another"
    )
    variables = "The container of a session has no variables, because NVIDIA_VISIBLE_DEVICES would open GPUs."
    yield refused(variables, *one, "env", value=[{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}])
    yield refused(variables, *one, "envFrom", value=[{"secretRef": {"name": NAME}}])
    own = "A session has its own ResourceClaim and no other."
    yield refused(own, "spec", "resourceClaims", 0, "resourceClaimName", value="s-another")
    other = {"name": "other", "resourceClaimName": "s-another"}
    yield refused(own, "spec", "resourceClaims", value=[*pod()["spec"]["resourceClaims"], other])
    devices = "A session asks for CPUs, memory and disk alone, because other resources can be devices."
    claims = {"claims": [{"name": "gpu"}]}
    whole_gpu = {**claims, "limits": {"memory": "1Gi", "nvidia.com/gpu": "1"}}
    yield refused(devices, *one, "resources", value=whole_gpu)
    yield refused("A session has a limit of memory.", *one, "resources", value=claims)
    runtime = "A session has the default runtime, because another one may open the GPUs that its image names."
    yield refused(runtime, "spec", "runtimeClassName", value=RUNTIME)
    priority = "A session has no priority of the system, which would evict the pods of others."
    yield refused(priority, "spec", "priorityClassName", value="system-node-critical")
    volumes = "A session mounts its own Secret, the home of its uid and memory."
    yield refused(volumes, "spec", "volumes", 0, "persistentVolumeClaim", "claimName", value="home-20008")
    yield refused(volumes, "spec", "volumes", 1, "secret", "secretName", value="s-another")
    config_map = {"name": "home", "configMap": {"name": "kube-root-ca.crt"}}
    yield refused(volumes, "spec", "volumes", 0, value=config_map)
    # Kubernetes adds a volume with the token.
    yield refused(volumes, "spec", "automountServiceAccountToken", value=True)
    uid = "A session runs as the uid of its label, which is also its group."
    for name in ("runAsUser", "runAsGroup", "fsGroup"):
        yield refused(uid, "spec", "securityContext", name, value=20008)
    yield refused(uid, "spec", "securityContext", "supplementalGroups", value=[20008])
    yield refused(uid, *one, "securityContext", "runAsUser", value=20008)
    token = "A session has no token of a service account."
    yield refused(token, "spec", "serviceAccountName", value=ACCOUNT)
    yield refused("The scheduler chooses the node of a session.", "spec", "nodeName", value="node-1")
    grace = "The grace of a session is not 0, because its slice is free only when its programs have ended."
    yield refused(grace, "spec", "terminationGracePeriodSeconds", value=0)
    deadline = "A session has a deadline, after which it ends even if no gateway runs."
    yield refused(deadline, "spec", "activeDeadlineSeconds", value=None)


def _claims() -> Iterator[Case]:
    def refused(message: str, *requests: Object) -> Case:
        return Case(message, CLAIMS, changed(claim(), "spec", "devices", "requests", value=[*requests]))

    def exactly(**wanted: object) -> Object:
        return {"name": "gpu", "exactly": {"deviceClassName": "mig-1g.5gb", **wanted}}

    def either(**wanted: object) -> Object:
        first = {"name": "advised", "deviceClassName": "mig-1g.5gb"}
        return {"name": "gpu", "firstAvailable": [first, {**first, "name": "any", **wanted}]}

    yield Case(
        "The claim of a session is named s-SESSION.",
        CLAIMS,
        changed(claim(), "metadata", "name", value="s-another"),
    )
    kind = "The claim of a session is one request for a class mig-PROFILE."
    another = {"deviceClassName": "gpu.nvidia.com"}
    yield refused(kind)
    yield refused(kind, exactly(), {**exactly(), "name": "second"})
    yield refused(kind, exactly(**another))
    yield refused(kind, either(**another))
    one = "A session has one slice."
    for many in ({"count": 2}, {"allocationMode": "All"}):
        yield refused(one, exactly(**many))
        yield refused(one, either(**many))
    cordons = "A session tolerates no taint of a device, such as a cordon."
    anything = {"tolerations": [{"operator": "Exists"}]}
    yield refused(cordons, exactly(**anything))
    yield refused(cordons, either(**anything))
    yield refused("A session has no administrative access to a device.", exactly(adminAccess=True))
    opaque = {"opaque": {"driver": "gpu.nvidia.com", "parameters": {"sharing": "all"}}}
    plain = "The claim of a session does not configure its device."
    yield Case(plain, CLAIMS, changed(claim(), "spec", "devices", "config", value=[opaque]))


def _files() -> Iterator[Case]:
    name = "The Secret of a session is named s-SESSION."
    yield Case(name, SECRETS, changed(files(), "metadata", "name", value="s-another"))
    token = "The Secret of a session has files, and no token of a service account."
    yield Case(token, SECRETS, _token_of("default", files()))


def _homes() -> Iterator[Case]:
    named = "The home of a user is named home-UID."
    yield Case(named, HOMES, changed(home(), "metadata", "name", value="home-ann"))
    others = "The gateway makes new homes, and none from a volume of others."
    yield Case(others, HOMES, changed(home(), "spec", "volumeName", value="volume-of-others"))
    source = {"kind": "PersistentVolumeClaim", "name": "home-20008"}
    yield Case(others, HOMES, changed(home(), "spec", "dataSource", value=source))
    yield Case(others, HOMES, changed(home(), "spec", "dataSourceRef", value=source))


def _routes() -> Iterator[Case]:
    password = "A Pipe needs authorized_keys_data, because SSHPiper accepts any password without it."
    yield Case(password, PIPES, changed(route(), "spec", "from", 0, "authorized_keys_data", value=""))
    without = [*route()["spec"]["from"], {"username": "bob"}]
    yield Case(password, PIPES, changed(route(), "spec", "from", value=without))
    host = "A Pipe needs known_hosts_data, because SSHPiper trusts any host without it."
    yield Case(host, PIPES, changed(route(), "spec", "to", "known_hosts_data", value=None))
    one = "A Pipe of the gateway is for one user."
    yield Case(one, PIPES, changed(route(), "spec", "from", 0, "username_regex_match", value=True))


def _objects_of_routes() -> Iterator[Case]:
    own = "The gateway changes the objects of its routes and notices alone."
    for collection, manifest in ((PIPES, route()), (SECRETS, key_of_route()), (CONFIG_MAPS, notice())):
        yield Case(own, collection, changed(manifest, "metadata", "name", value="router-host-keys"))


def _keys() -> Iterator[Case]:
    keys = "The Secrets of the gateway's routes are SSH keys, and no tokens of accounts."
    yield Case(keys, SECRETS, _token_of("router", key_of_route()))


def _reports() -> Iterator[Case]:
    message = "A router creates ConfigMaps logins-… with reports of logins alone."
    for path, value in ((("metadata", "name"), "n-1"), (("metadata", "labels"), dict(NOTICES))):
        yield Case(message, CONFIG_MAPS, changed(report(), *path, value=value), ROUTER)


def _cordons() -> Iterator[Case]:
    def refused(message: str, *path: str | int, value: Any) -> Case:
        return Case(message, TAINT_RULES, changed(cordon(), *path, value=value))

    name = "The rules of the gateway are named gpu-ssh-gateway-…."
    yield refused(name, "metadata", "name", value="repair")
    label = "The rules of the gateway have its label, by which it finds and removes them."
    yield refused(label, "metadata", "labels", value=None)
    off = "A cordon of the gateway keeps new pods off, and ends none."
    yield refused(off, "spec", "taint", "effect", value="NoExecute")
    yield refused(off, "spec", "taint", "key", value="example.org/repair")
    device = "A cordon of the gateway selects one device of one node, of gpu.nvidia.com."
    yield refused(device, "spec", "deviceSelector", value={})
    yield refused(device, "spec", "deviceSelector", value=None)
    yield refused(device, "spec", "deviceSelector", "driver", value="nic.example.org")
    yield refused(device, "spec", "deviceSelector", "driver", value=None)
    yield refused(device, "spec", "deviceSelector", "pool", value=None)
    yield refused(device, "spec", "deviceSelector", "device", value=None)


def _token_of(account: str, secret: Object) -> Object:
    """A Secret in which Kubernetes writes a token of the account that does not end."""
    metadata = {**secret["metadata"], "annotations": {"kubernetes.io/service-account.name": account}}
    return {**secret, "type": "kubernetes.io/service-account-token", "data": {}, "metadata": metadata}


REFUSED: dict[str, list[Case]] = {
    "gpu-sessions-pods": [*_pods()],
    "gpu-sessions-claims": [*_claims()],
    "gpu-sessions-files": [*_files()],
    "gpu-sessions-homes": [*_homes()],
    "gpu-routes-pipes": [*_routes()],
    "gpu-routes-of-the-gateway": [*_objects_of_routes()],
    "gpu-routes-keys": [*_keys()],
    "gpu-routes-reports": [*_reports()],
    "gpu-gateway-cordons": [*_cordons()],
}
