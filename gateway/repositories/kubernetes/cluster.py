"""A cluster of Kubernetes as the port `Host`: a session is a pod with a ResourceClaim.

The scheduler of the cluster chooses node and slice, and a DRA driver makes the slice. No cache decides
anything: a watch only saves time, and the gateway's processes share nothing but the database.
"""

import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice

from gateway.domain import session_token
from gateway.domain.activity import GpuUse
from gateway.domain.board import Board
from gateway.domain.leased import SessionColumns
from gateway.domain.mig import Gpu, MigPolicy, Profile
from gateway.domain.models import Session
from gateway.domain.observation import Observation, Place
from gateway.domain.plan import Allocation, SessionPlan, SessionRequest, Started
from gateway.domain.planner import ClusterPlanner
from gateway.domain.recovery import Survivor
from gateway.domain.uids import UidRange
from gateway.errors import ContainerFailed, GatewayError, NoCapacity, Unavailable
from gateway.failpoints import reach
from gateway.repositories import nvidia_smi
from gateway.repositories.kubernetes import claims, facts
from gateway.repositories.kubernetes.api import (
    DEVICE_CLAIMS,
    DEVICE_CLASSES,
    PODS,
    SECRETS,
    SLICES,
    VOLUME_CLAIMS,
    Api,
    Kind,
    Object,
)
from gateway.repositories.kubernetes.boards import Boards
from gateway.repositories.kubernetes.cordons import Cordons
from gateway.repositories.kubernetes.egress import ClusterEgress
from gateway.repositories.kubernetes.endings import PodEndings
from gateway.repositories.kubernetes.facts import Device, DeviceName, Inventory
from gateway.repositories.kubernetes.gpus import ClusterGpus
from gateway.repositories.kubernetes.locks import Locks
from gateway.repositories.kubernetes.logins import Login, Logins, NotReachable
from gateway.repositories.kubernetes.objects import (
    DEPLOYMENT,
    MANAGED,
    SESSION,
    USED_FILE,
    USER,
    Advice,
    Door,
    Site,
    device_class_of,
    home_of,
    name_of,
)
from gateway.repositories.kubernetes.pod_facts import PodFacts
from gateway.repositories.kubernetes.running import Running
from gateway.repositories.kubernetes.service_url import ServiceUrl
from gateway.repositories.kubernetes.view import ClusterView
from gateway.repositories.scripts import RunsScripts, Script

_UIDS_AT_ONCE = 32  # more than the number of new users whose first sessions open at the same time
_LOGIN_PAUSE_SECONDS = 0.05
_WAS_USED = f"if [ -e {USED_FILE} ]; then echo used; fi"


@dataclass(frozen=True)
class ClusterHost(RunsScripts):
    """`gives_advice`: the scheduler is asked to use the GPU that the planner chose. `login` returns how to
    log in to a session, by its id, once its address is known; None without a row."""

    api: Api
    site: Site
    locks: Locks
    logins: Logins
    login: Callable[[str], Login | None]
    running: Running
    gpus: ClusterGpus
    boards: Boards
    cordons: Cordons
    lease_service: ServiceUrl
    egress: ClusterEgress
    uid_range: UidRange = UidRange()
    gives_advice: bool = True
    lost: dict[str, bool] = field(default_factory=dict)  # what `look_inside` found, by session

    def list_gpus(self) -> list[Gpu]:
        return self.gpus.list()

    def planner(self) -> ClusterPlanner:
        return ClusterPlanner(self.gpus.inventory().gpus, MigPolicy.DYNAMIC)

    def line_planner(self) -> ClusterPlanner:
        return self.planner()

    def cordon(self, gpus: Collection[str]) -> None:
        self.cordons.set(gpus)

    def pin_image(self, reference: str) -> str:
        """The nodes pull the image, so only a digest in the reference itself fixes what it names."""
        return reference

    def start(self, plan: SessionPlan) -> Started:
        request, profile = plan.request, self._profile(plan.mig_profile)
        deadline = time.monotonic() + self.running.start_timeout_seconds
        door, proxy = self._door(request.session_id), self.egress.proxy()
        self.boards.begin(request.session_id, plan.board)
        pod = self.running.start(request, profile, self._advice(plan), door, plan.board, proxy)
        reach("after-pod-run")
        device = self._device(request.session_id)
        mig_uuid = self._log_in(request, pod, device, deadline)
        reach("after-login", ContainerFailed)
        allocation = Allocation(device.gpu, device.profile, device.placement, mig_uuid=mig_uuid)
        return Started(pod.name, str(pod.address), allocation)

    def stop(self, session_id: str, allocation: Allocation | None) -> None:
        self.running.remove(session_id)

    def forget(self, session_id: str) -> None:
        self.lost.pop(session_id, None)
        self.boards.forget(session_id)
        self.running.forget(session_id)

    def show(self, session_id: str, wanted: Callable[[], Board | None]) -> None:
        with self.locks.hold(f"the board of {session_id}"):
            if board := wanted():
                self.boards.show(session_id, board)

    def differing(self, boards: Mapping[str, Board]) -> Collection[str]:
        return self.boards.differing(boards)

    def look_inside(self, session: Session) -> str | None:
        """With dynamic MIG, NVIDIA's driver does not say that a GPU is lost, but nvidia-smi does."""
        if session.address is None or session.gpu is None:
            return None
        gpu = self.gpus.inventory().gpus.by_uuid.get(session.gpu)
        if gpu and gpu.simulated:
            return _simulated_uuid(session.id)
        try:
            said = self.logins.run(_login_of(session), ["nvidia-smi", "-L"])
        except NotReachable:
            return None
        except ContainerFailed as error:
            said = str(error)
            if not nvidia_smi.shows_lost_gpu(said):  # such as a session that may have no more processes
                return None
        self.lost[session.id] = is_lost = nvidia_smi.shows_lost_gpu(said)
        return None if is_lost else nvidia_smi.only_slice(said)

    def gpu_use(self, session: Session) -> GpuUse:
        """By the session itself: only its node knows more. Nobody measures whether a program works."""
        count = self._inside(session, Script.GPU)
        return GpuUse(int(count) if count.isdecimal() else None)

    def was_used(self, session: Session) -> bool:
        probe = self.activity(session)
        if probe is None or probe.connections != 0:
            return True
        return self.logins.run(_login_of(session), ["/bin/sh", "-c", _WAS_USED]).strip() == "used"

    def disconnect(self, session_id: str) -> None:
        """A pod that is gone has no connections."""
        login = self.login(session_id)
        if login and self.api.get(PODS, name_of(session_id), self.site.sessions):
            Script.DISCONNECT.result(self.logins.run(login, _command(Script.DISCONNECT)))

    def repair(self, session_id: str) -> None:
        """Nothing of a pod can be repaired: its image, mounts and rights never change."""

    def observe(self, sessions: Sequence[SessionColumns]) -> Observation:
        unseen: dict[Place, str] = {}
        try:
            pods = {pod.session_id: pod for pod in map(PodFacts.of, self._own(PODS))}
            view = ClusterView(
                pods,
                self._ids(DEVICE_CLAIMS),
                self._ids(SECRETS),
                inventory=self._published(),
                lost=dict(self.lost),
            )
        except GatewayError as error:
            view, unseen[Place.KUBERNETES] = ClusterView(None), str(error)
        try:
            view = replace(view, claimed=self.locks.held({*view.ids, *(session.id for session in sessions)}))
        except GatewayError as error:  # nothing can be swept while nobody knows what is being opened
            unseen[Place.DATABASE] = str(error)
            return replace(view.observe(sessions), held={}, unseen=unseen)
        return replace(view.observe(sessions), unseen=unseen)

    def _published(self) -> Inventory | None:
        try:
            return self.gpus.inventory()
        except GatewayError:  # `checks` reports it
            return None

    def survivors(self, besides: str | None = None) -> Sequence[Survivor]:
        without = {DEPLOYMENT: besides} if besides else None
        pods = [PodFacts.of(found) for found in self._managed(PODS, without)]
        claims = self._managed(DEVICE_CLAIMS, without) if pods else ()
        devices = {claim["metadata"]["name"]: facts.allocated(claim) for claim in claims}
        return [self._survivor(pod, devices.get(pod.name)) for pod in pods]

    def workspace_owners(self) -> Mapping[str, int]:
        owners = {}
        for found in self._managed(VOLUME_CLAIMS):
            user = (found["metadata"].get("annotations") or {}).get(USER)
            uid = found["metadata"]["name"].removeprefix(home_of(0)[:-1])
            if user and uid.isdecimal():
                owners[user] = int(uid)
        return owners

    def free_uids(self, user_id: str, assigned: Collection[int]) -> Sequence[int]:
        return list(islice(self.uid_range.unassigned(assigned), _UIDS_AT_ONCE))

    def account_of(self, uid: int) -> str | None:
        """The nodes' accounts are unknown, and a pod has its own."""
        return None

    def endings(self) -> PodEndings:
        return PodEndings(self.api, self.site.sessions)

    def claim(self, session_id: str) -> AbstractContextManager[None]:
        return self.locks.hold(session_id)

    def is_claimed(self, session_id: str) -> bool | None:
        return session_id in self.locks.held([session_id])

    def ensure(self) -> None:
        """The objects that all sessions share are the administrator's."""

    def checks(self) -> Mapping[str, Callable[[], str]]:
        return {
            "kubernetes": self._check_kubernetes,
            "gpus": self._describe_gpus,
            "device-classes": self._check_classes,
        }

    def examinations(self) -> Mapping[str, Callable[[], str]]:
        return {
            "counters": lambda: _ok_unless(
                claims.overcommitted(self.api.list(SLICES), self._managed(DEVICE_CLAIMS))
            ),
            "egress": self.egress.describe,
            "removals": lambda: _ok_unless(
                claims.stuck(
                    self._managed(DEVICE_CLAIMS),
                    self._managed(PODS),
                    self.gpus.inventory(is_new=True),
                    datetime.now(UTC),
                )
            ),
        }

    def has_quotas(self) -> bool:
        """The size of a volume claim is the quota; its storage enforces it."""
        return True

    def workspace_used(self, user_id: str) -> int:
        """Only a pod could measure a volume."""
        return 0

    def _advice(self, plan: SessionPlan) -> Advice | None:
        if plan.gpu is None or plan.gpu.node is None or not self.gives_advice:
            return None
        others = tuple(other.node for other in plan.others if other.node)
        return Advice(plan.gpu.node, plan.gpu.uuid, others)

    def _door(self, session_id: str) -> Door | None:
        """None if the Service does not exist: the session opens, and `lease` says that nobody answers."""
        url, login = self.lease_service.url(), self.login(session_id)
        return Door(url, session_token.make(session_id, login.private_key)) if url and login else None

    def _profile(self, name: str) -> Profile:
        found = (gpu.profile(name) for gpu in self.gpus.inventory().gpus)
        profile = next((each for each in found if each), None)
        if profile is None:
            raise NoCapacity(f"No node offers a {name} any more.", mig_profile=name)
        return profile

    def _device(self, session_id: str) -> Device:
        """The slice that the scheduler has allocated to the session's claim."""
        name = facts.allocated(self.api.get(DEVICE_CLAIMS, name_of(session_id), self.site.sessions))
        device = self.gpus.device(name) if name else None
        if device is None:
            raise ContainerFailed(f"No ResourceSlice describes the device {name} of the session's claim.")
        return device

    def _log_in(self, request: SessionRequest, pod: PodFacts, device: Device, deadline: float) -> str:
        """Return the UUID of the slice once sshd lets the gateway in."""
        known = self.login(request.session_id)
        if known is None:
            raise ContainerFailed("The session was closed while it started.")
        login = replace(known, address=str(pod.address))
        while True:
            try:
                return self._slice(login, request, device)
            except NotReachable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_LOGIN_PAUSE_SECONDS)

    def _slice(self, login: Login, request: SessionRequest, device: Device) -> str:
        if device.is_simulated:
            self.logins.run(login, ["true"])
            return _simulated_uuid(request.session_id)
        return nvidia_smi.only_slice(self.logins.run(login, ["nvidia-smi", "-L"]))

    def _inside(self, session: Session, script: Script, *arguments: str) -> str:
        if session.address is None:
            raise ContainerFailed("The session has no container yet.")
        return script.result(self.logins.run(_login_of(session), _command(script, *arguments)))

    def _survivor(self, pod: PodFacts, name: DeviceName | None) -> Survivor:
        device = self.gpus.device(name) if name else None
        allocation = Allocation(device.gpu, device.profile, device.placement) if device else None
        return Survivor(
            session_id=pod.session_id,
            user_id=pod.user_id,
            container_id=pod.name,
            deployment=pod.deployment,
            created_at=pod.created_at,
            expires_at=pod.expires_at,
            uid=pod.uid,
            address=pod.address,
            allocation=allocation,
            is_running=pod.is_running,
        )

    def _managed(self, kind: Kind, without: Mapping[str, str] | None = None) -> Iterator[Object]:
        return self.api.list(kind, self.site.sessions, MANAGED, without)

    def _own(self, kind: Kind) -> Iterator[Object]:
        labels = {**MANAGED, DEPLOYMENT: self.running.deployment()}
        return self.api.list(kind, self.site.sessions, labels)

    def _ids(self, kind: Kind) -> set[str]:
        labels = {**MANAGED, DEPLOYMENT: self.running.deployment()}
        found = self.api.metadata(kind, self.site.sessions, labels)
        return {each["metadata"]["labels"].get(SESSION, "") for each in found} - {""}

    def _check_kubernetes(self) -> str:
        self.api.get(PODS, "none", self.site.sessions)
        return f"ok: sessions in the namespace {self.site.sessions}, routes in {self.site.routes}"

    def _describe_gpus(self) -> str:
        gpus = self.gpus.inventory().gpus
        nodes = [f"GPU {gpu.index} {gpu.fault}" for gpu in gpus if gpu.fault]
        simulated = ", simulated" if any(gpu.simulated for gpu in gpus) else ""
        return "; ".join([f"ok: {len(gpus)} GPUs{simulated}", *nodes[:3]])

    def _check_classes(self) -> str:
        """Each profile needs a class of its own."""
        wanted = {
            device_class_of(self.site, profile.name)
            for gpu in self.gpus.inventory().gpus
            for profile in gpu.profiles
        }
        missing = sorted(wanted - {found["metadata"]["name"] for found in self.api.list(DEVICE_CLASSES)})
        if missing:
            raise ContainerFailed(f"The cluster has no DeviceClass {', '.join(missing)}: create it.")
        return f"ok: {len(wanted)} profiles have a DeviceClass"


def _simulated_uuid(session_id: str) -> str:
    """A simulated device has no UUID, so it gets one that is always the same for a session."""
    return f"MIG-{uuid.uuid5(uuid.NAMESPACE_OID, session_id)}"


def _ok_unless(problems: Iterator[str]) -> str:
    """Raise `Unavailable` with all problems."""
    if found := list(problems):
        raise Unavailable(" ".join(found))
    return "ok"


def _command(script: Script, *arguments: str) -> list[str]:
    return ["/bin/sh", "-c", script.text, str(script), *arguments]


def _login_of(session: Session) -> Login:
    return Login(str(session.address), session.user_id, session.private_key, session.host_key)
