"""The objects of a session in Kubernetes, as manifests. Pure.

A pod, its ResourceClaim and its Secret have the session's name, a volume claim has the uid's. Nothing owns
anything: the gateway removes the objects in its own order, and finds all of them by their labels.
"""

import posixpath
import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from gateway.domain.board import Board
from gateway.domain.mig import Profile
from gateway.domain.pipe import Pipe
from gateway.domain.plan import SSH_PORT, SessionRequest
from gateway.languages import ENGLISH
from gateway.repositories.files import board as board_files
from gateway.repositories.files.board import LEASE, MOTD
from gateway.repositories.files.session_contents import PROGRAMS, EgressProxy, SliceText, contents
from gateway.repositories.kubernetes.api import (
    DEVICE_CLAIMS,
    PIPES,
    PODS,
    SECRETS,
    VOLUME_CLAIMS,
    Kind,
    Labels,
    Object,
)

GROUP = "gpu-ssh-gateway.io"
MANAGED = {"app.kubernetes.io/managed-by": "gpu-ssh-gateway"}
SESSION, UID, DEPLOYMENT = f"{GROUP}/session", f"{GROUP}/uid", f"{GROUP}/deployment"  # labels
CONTENT = f"{GROUP}/content"  # a label of what belongs to no session: `notice`, `lobby` or `logins`
USER, CREATED_AT, LEASE_ENDS = f"{GROUP}/user", f"{GROUP}/created-at", f"{GROUP}/lease-ends"  # annotations
SHOWN_AT = f"{GROUP}/shown-at"  # an annotation: when the session's files were last changed
ROUTES: Labels = {**MANAGED, SESSION: None}  # of the Pipes of sessions, and not of those into the lobby
GRACE_SECONDS = 1  # never 0: then the pod is gone before its slice, and somebody else gets the slice
GPU_REQUEST = "gpu"
DRIVER = "gpu.nvidia.com"
SIMULATED = "simulated"  # the attribute of a device that is none
PRIVATE_KEY = "ssh-privatekey"  # the key of a Secret of the type kubernetes.io/ssh-auth

# A Secret's volume belongs to root and is writable for its group, which sshd does not accept for a directory.
# The gateway logs in as the user, so no file of the user may run then.
_SSHD_OPTIONS = "StrictModes no\nPermitUserRC no\n"
# The login shell runs the gateway's commands before it reads a file of the user's. They are no use of the
# session.
MARK_OF_GATEWAY = ": gateway;"
USED_FILE = "/tmp/.gateway-used"
_RUN_GATEWAYS = f"case ${{2-}} in '{MARK_OF_GATEWAY}'*) exec /bin/sh -c \"$2\" ;; esac\n"
# As Docker's limit of 1 byte: with any other one, a crash can start a program outside, as root.
_NO_CORE_DUMPS = "prlimit --core=1 --pid $$ 2> /dev/null || ulimit -c 0\n"
_NOTE_USE = f"(: > {USED_FILE}) 2> /dev/null\n"
_HOST_KEY = "etc/ssh_host_ed25519_key"
_READ, _EXECUTE, _PRIVATE = 0o444, 0o555, 0o440
_STATES_OF_A_LOST_NODE = (
    "not-ready",
    "unreachable",
)  # without tolerations a pod is deleted after five minutes
_OVERTIME = timedelta(hours=1)  # after the longest lease, a pod ends even if no gateway lives
_MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What all sessions of a gateway have in common. Sizes are in bytes.

    `storage_class` is None for the cluster's default. `memory` is that of one memory slice of a GPU. `cpus`
    is None for no limit. `longest_lease` bounds the life of a pod. Programs in sessions call the API by the
    Service `lease_service`, as `NAMESPACE/NAME`; empty if they cannot. They reach `egress_hosts`, each as
    `HOST:PORT`, by the proxy behind the Service `egress_service`.
    """

    sessions: str
    routes: str
    device_class_prefix: str
    storage_class: str | None
    access_mode: str
    workspace_bytes: int
    memory: int
    cpus: float | None
    shm: int
    tmp: int
    read_only_root: bool
    longest_lease: timedelta
    image: str
    language: str = ENGLISH
    lease_service: str = ""
    egress_hosts: tuple[str, ...] = ()
    egress_service: str = ""


@dataclass(frozen=True, slots=True)
class Door:
    """How programs in a session call the API. `token` names the session and proves it."""

    url: str
    token: str = field(repr=False)


def name_of(session_id: str) -> str:
    return f"s-{session_id}"


def home_of(uid: int) -> str:
    return f"home-{uid}"


def device_class_of(site: Site, profile: str) -> str:
    """Names of objects have no plus sign: `1g.24gb+me` is the class `mig-1g.24gb-me`, and `1g.24gb-me`, which
    is another profile, `mig-1g.24gb-no-me`."""
    return f"{site.device_class_prefix}{profile.replace('-', '-no-').replace('+', '-').lower()}"


def secret(
    site: Site,
    request: SessionRequest,
    profile: Profile,
    deployment: str,
    door: Door | None = None,
    board: Board | None = None,
    proxy: EgressProxy | None = None,
) -> Object:
    """The files of the session. A key of a Secret has no slash: `items` in the pod give the paths."""
    data = encoded_files(files(site, request, profile, door, board, proxy))
    return _manifest(SECRETS, site.sessions, request, deployment, type="Opaque", data=data)


def files(
    site: Site,
    request: SessionRequest,
    profile: Profile,
    door: Door | None = None,
    board: Board | None = None,
    proxy: EgressProxy | None = None,
) -> dict[str, str]:
    """Return the text of each file, by its path. The UUID of the slice is not known yet."""
    slice_ = SliceText(profile.name, f", {profile.memory_mib} MiB")
    texts = dict(contents(request, slice_, proxy, _SSHD_OPTIONS, site.language))
    texts["etc/shell"] = _begun_with(_RUN_GATEWAYS, texts["etc/shell"])
    texts["etc/start"] = _begun_with(_NO_CORE_DUMPS, texts["etc/start"])
    texts["etc/environment.sh"] += _NOTE_USE
    texts[f"etc/{LEASE}"] = f"session={request.session_id}\nends={_utc(request.expires_at)}\nmax=\n"
    for name, text in board_files.texts(texts[f"etc/{MOTD}"], board).items() if board else ():
        texts[f"etc/{name}"] = text
    texts["etc/door"] = f"{door.url}\n{door.token}\n" if door else ""
    texts[_HOST_KEY] = request.host_key.private
    return texts


def _begun_with(line: str, script: str) -> str:
    interpreter, _, rest = script.partition("\n")
    return f"{interpreter}\n{line}{rest}"


def key_of(path: str) -> str:
    return path.replace("/", "_")


@dataclass(frozen=True, slots=True)
class Advice:
    """Where the gateway would place a session: on this GPU of this node, or else on one of the other nodes.
    The scheduler checks it."""

    node: str
    gpu: str
    others: tuple[str, ...] = ()

    @property
    def affinity(self) -> Object:
        """One of these nodes, the first one if it has room: the scheduler would prefer the emptiest."""
        terms = [_is_node(name) for name in (self.node, *self.others)]
        affinity: dict[str, Any] = {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}
        }
        if self.others:
            first = {"weight": 100, "preference": _is_node(self.node)}
            affinity["preferredDuringSchedulingIgnoredDuringExecution"] = [first]
        return {"nodeAffinity": affinity}


def _is_node(name: str) -> Object:
    """Kubernetes allows one value for such a field."""
    return {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}


def device_claim(
    site: Site, request: SessionRequest, profile: str, deployment: str, advice: Advice | None = None
) -> Object:
    """One device of the profile's class, if possible of the advised GPU. The class selects driver and
    profile, so the claim needs no selector for them: each selector is evaluated for each device of each
    node."""
    wanted = {
        "deviceClassName": device_class_of(site, profile),
        "allocationMode": "ExactCount",
        "count": 1,
    }
    choice: dict[str, Any] = {"exactly": wanted}
    if advice:
        attributes = f'device.attributes["{DRIVER}"]'
        selector = {"cel": {"expression": f'{attributes}.?parentUUID.orValue("") == "{advice.gpu}"'}}
        preferred = {"name": "advised", **wanted, "selectors": [selector]}
        choice = {"firstAvailable": [preferred, {"name": "any", **wanted}]}
    devices = {"requests": [{"name": GPU_REQUEST, **choice}]}
    return _manifest(DEVICE_CLAIMS, site.sessions, request, deployment, spec={"devices": devices})


def volume_claim(site: Site, request: SessionRequest, deployment: str) -> Object:
    """The user's home. It outlives every session, so it has no label of one."""
    spec: dict[str, Any] = {
        "accessModes": [site.access_mode],
        "resources": {"requests": {"storage": str(site.workspace_bytes)}},
    }
    if site.storage_class is not None:
        spec["storageClassName"] = site.storage_class
    made = _manifest(VOLUME_CLAIMS, site.sessions, request, deployment, spec=spec)
    made["metadata"]["name"] = home_of(request.uid)
    del made["metadata"]["labels"][SESSION]
    made["metadata"]["annotations"] = {USER: request.user_id}
    return made


def pod(
    site: Site, request: SessionRequest, profile: Profile, deployment: str, advice: Advice | None = None
) -> Object:
    """The pod, restricted as Pod Security Standards define it. With advice it goes to an advised node or
    nowhere: the scheduler then looks at three nodes, and not at a hundred."""
    name, uid = name_of(request.session_id), request.uid
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "activeDeadlineSeconds": round((site.longest_lease + _OVERTIME).total_seconds()),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "dnsPolicy": "None",
        "dnsConfig": {"nameservers": ["127.0.0.1"]},  # sessions resolve no names
        "hostname": _hostname(request.user_id),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": uid,
            "runAsGroup": uid,
            "fsGroup": uid,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "tolerations": [
            {"key": f"node.kubernetes.io/{state}", "operator": "Exists", "effect": "NoExecute"}
            for state in _STATES_OF_A_LOST_NODE
        ],
        "resourceClaims": [{"name": GPU_REQUEST, "resourceClaimName": name}],
        "containers": [_container(site, request, profile)],
        "volumes": _volumes(site, request),
    }
    if advice:
        spec["affinity"] = advice.affinity
    return _manifest(PODS, site.sessions, request, deployment, spec=spec)


def _container(site: Site, request: SessionRequest, profile: Profile) -> dict[str, Any]:
    home = f"/home/{request.user_id}"
    return {
        "name": "session",
        "image": request.image or site.image,
        "command": ["/bin/sh", "/etc/gateway/start"],  # in place of the image's ENTRYPOINT and CMD
        "workingDir": home,
        "ports": [{"name": "ssh", "containerPort": SSH_PORT, "protocol": "TCP"}],
        "resources": _resources(site, profile),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "privileged": False,
            "readOnlyRootFilesystem": site.read_only_root,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "home", "mountPath": home},
            {"name": "gateway", "mountPath": "/etc/gateway", "readOnly": True},
            _file_mount("/etc/passwd", "passwd"),
            _file_mount("/etc/group", "group"),
            _file_mount("/etc/profile.d/gateway.sh", "environment.sh"),
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "var-tmp", "mountPath": "/var/tmp"},
            {"name": "shm", "mountPath": "/dev/shm"},
        ],
    }


def _file_mount(path: str, name: str) -> dict[str, Any]:
    return {"name": "accounts", "mountPath": path, "subPath": name, "readOnly": True}


def _resources(site: Site, profile: Profile) -> dict[str, Any]:
    """Memory follows the slice, so a node without a free slice is refused by its memory alone, which the
    scheduler checks a hundred times faster than the devices."""
    slices = profile.placements[0].size if profile.placements else 1
    amounts = {"memory": f"{site.memory * slices // _MIB}Mi"}
    if site.cpus is not None:
        amounts["cpu"] = f"{round(site.cpus * 1000)}m"
    return {"claims": [{"name": GPU_REQUEST}], "requests": amounts, "limits": dict(amounts)}


def _volumes(site: Site, request: SessionRequest) -> list[dict[str, Any]]:
    name = name_of(request.session_id)

    def memory(volume: str, size: int) -> dict[str, Any]:
        return {"name": volume, "emptyDir": {"medium": "Memory", "sizeLimit": f"{size // _MIB}Mi"}}

    gateway = [_item(path, path.removeprefix("etc/")) for path in _PATHS if path.startswith("etc/")]
    accounts = [_item(path, posixpath.basename(path)) for path in ("passwd", "group", "etc/environment.sh")]
    return [
        {"name": "home", "persistentVolumeClaim": {"claimName": home_of(request.uid)}},
        {"name": "gateway", "secret": {"secretName": name, "defaultMode": _READ, "items": gateway}},
        {"name": "accounts", "secret": {"secretName": name, "defaultMode": _READ, "items": accounts}},
        memory("tmp", site.tmp),
        memory("var-tmp", site.tmp),
        memory("shm", site.shm),
    ]


_PATHS = (
    "passwd",
    "group",
    "etc/sshd_config",
    "etc/authorized_keys",
    "etc/environment.sh",
    "etc/words.sh",
    "etc/motd",
    "etc/lease",
    "etc/door",
    "etc/start",
    "etc/shell",
    "etc/bin/lease",
    _HOST_KEY,
)


def _item(path: str, target: str) -> dict[str, Any]:
    item = {"key": key_of(path), "path": target}
    mode = _EXECUTE if path in PROGRAMS else _PRIVATE if path == _HOST_KEY else None
    return item if mode is None else {**item, "mode": mode}


def pipe(site: Site, route: Pipe, deployment: str) -> tuple[Object, Object]:
    """The Secret with the router's key, and the Pipe that names it."""
    metadata = {
        "name": name_of(route.session_id),
        "namespace": site.routes,
        "labels": {**MANAGED, SESSION: route.session_id, DEPLOYMENT: deployment},
    }
    key = {PRIVATE_KEY: encoded(route.private_key)}
    return ssh_secret(metadata, key), pipe_to(metadata, route, name_of(route.session_id))


def ssh_secret(metadata: Object, data: Mapping[str, str]) -> Object:
    """A Secret of which SSHPiper reads the private key."""
    kind = {"apiVersion": SECRETS.api_version, "kind": SECRETS.name}
    return {**kind, "metadata": metadata, "type": "kubernetes.io/ssh-auth", "data": dict(data)}


def pipe_to(metadata: Object, route: Pipe, secret: str) -> Object:
    """A Pipe whose private key is in the Secret of this name. `Pipe` has refused a route without keys of the
    user or of the session: SSHPiper would let anybody in, or trust any host."""
    entry = route.entry()
    target = {name: text for name, text in entry["to"].items() if name != "private_key_data"}
    return {
        "apiVersion": PIPES.api_version,
        "kind": PIPES.name,
        "metadata": metadata,
        "spec": {"from": entry["from"], "to": {**target, "private_key_secret": {"name": secret}}},
    }


def _manifest(
    kind: Kind, namespace: str, request: SessionRequest, deployment: str, **parts: Any
) -> dict[str, Any]:
    return {
        "apiVersion": kind.api_version,
        "kind": kind.name,
        "metadata": {
            "name": name_of(request.session_id),
            "namespace": namespace,
            "labels": {
                **MANAGED,
                SESSION: request.session_id,
                UID: str(request.uid),
                DEPLOYMENT: deployment,
            },
            "annotations": {
                USER: request.user_id,
                CREATED_AT: _utc(request.created_at),
                LEASE_ENDS: _utc(request.expires_at),
            },
        },
        **parts,
    }


def encoded_files(texts: Mapping[str, str]) -> dict[str, str]:
    """Return the files, by their paths, as the data of a Secret."""
    return {key_of(path): encoded(text) for path, text in texts.items()}


def _hostname(user_id: str) -> str:
    """The user id in the form of a DNS label. Two user ids can have the same one."""
    label = re.sub("[^a-z0-9-]", "-", user_id.lower()).strip("-")
    return f"{label or 'user'}-gpu"


def _utc(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"


def encoded(text: str) -> str:
    """Return the text as the data of a Secret has it."""
    return b64encode(text.encode()).decode()
