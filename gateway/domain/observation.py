"""The state of sessions on a host, and how it follows from the parts of one server. Pure.

A session runs, has ended (with a reason), is gone, or is unknown. If a part of the host does not answer, the
sessions that depend on it are unknown, never gone.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from gateway.domain.containers import Deviation
from gateway.domain.leased import SessionColumns
from gateway.domain.mig import FULL, Gpu, MigMode
from gateway.domain.states import Reason, Status

MARKED = "the session stays open; it is only marked"
NOT_REPAIRED = "not repaired: delete the session"


class State(StrEnum):
    RUNNING = "running"
    ENDED = "ended"  # parts of it exist, but it cannot be used any more
    GONE = "gone"
    UNKNOWN = "unknown"


class Place(StrEnum):
    """Where parts of a session exist."""

    DATABASE = "database"
    DOCKER = "Docker"
    DRIVER = "GPU driver"
    PIPES = "pipe file"
    FILES = "session files"
    KUBERNETES = "Kubernetes"
    PODS = "pods"
    CLAIMS = "ResourceClaims"
    SECRETS = "Secrets"
    ROUTES = "Pipes"


@dataclass(frozen=True, slots=True)
class Finding:
    """`what` is wrong at `place`; `then` is what follows if the session stays open."""

    place: Place
    what: str
    then: str = ""


@dataclass(frozen=True, slots=True)
class SessionState:
    """`reason`: why the session ended or is gone. `problem`: what is wrong with a session that stays open.
    `is_repairable`: the host can restore a part of the session."""

    state: State
    reason: Reason | None = None
    problem: str | None = None
    is_repairable: bool = False
    findings: Sequence[Finding] = ()


@dataclass(frozen=True, slots=True)
class Observation:
    """The state of a host at one moment.

    `states` has every session that the caller named. `held` maps the id of each session, with or without a
    row, to the places that hold parts of it. `claimed` maps each id with session files to whether a process
    opens or removes the session now. `pods` are the ids of the sessions with a pod, on a cluster. `unseen`
    maps each place that could not be read to the reason.
    """

    states: Mapping[str, SessionState]
    held: Mapping[str, Sequence[Place]] = field(default_factory=dict)
    claimed: Mapping[str, bool] = field(default_factory=dict)
    pods: Collection[str] = ()
    unseen: Mapping[Place, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Container:
    """A container with a session's label. `ended`: its main process has ended. `foreign`: the session
    belongs to another database. `deviations`: how the container differs from its plan."""

    id: str
    session_id: str
    ended: bool
    foreign: bool = False
    reason: Reason = Reason.USER_EXIT  # why it ended, if it has
    deviations: Sequence[Deviation] = ()


@dataclass(frozen=True, slots=True)
class ServerView:
    """The parts of one server at one moment.

    `containers` is None if Docker did not answer. `gpus` are the GPUs that the driver reported; the state of
    any other GPU is unknown. `files` maps the ids with session files to whether they are claimed; None if the
    directory could not be read. Containers from before `up_since` no longer run; None if it is unknown.
    `open_network` describes why the sessions' network is not isolated; None if it is, or was not checked.
    """

    containers: Sequence[Container] | None
    gpus: Sequence[Gpu] = ()
    files: Mapping[str, bool] | None = field(default_factory=dict)
    up_since: datetime | None = None
    open_network: str | None = None
    unseen: Mapping[Place, str] = field(default_factory=dict)

    def observe(self, sessions: Sequence[SessionColumns]) -> Observation:
        """Return the state of `sessions`, which must have been read before this view was taken."""
        listed = self.containers or ()
        foreign = {container.session_id for container in listed if container.foreign}
        containers = {container.session_id: container for container in listed if not container.foreign}
        gpus = {gpu.uuid: gpu for gpu in self.gpus}
        files = {id: claimed for id, claimed in (self.files or {}).items() if id not in foreign}
        return Observation(
            states={
                session.id: self._state(session, containers.get(session.id), gpus) for session in sessions
            },
            held={
                id: [
                    *([Place.DOCKER] if id in containers else []),
                    *([Place.FILES] if id in files else []),
                ]
                for id in containers.keys() | files.keys()
            },
            claimed=files,
            unseen=self.unseen,
        )

    def _state(
        self, session: SessionColumns, container: Container | None, gpus: Mapping[str, Gpu]
    ) -> SessionState:
        gpu = gpus.get(session.gpu or "")
        is_lost = gpu is not None and has_lost_slice(gpu, session)
        state, reason = self._judge(session, container, is_lost)
        findings = [*self._container_findings(container), *self._file_findings(session)]
        if self.open_network:
            findings.append(Finding(Place.DOCKER, self.open_network, MARKED))
        if gpu_problem := _gpu_problem(session, gpus):
            findings.append(Finding(Place.DRIVER, gpu_problem, MARKED))
        if gpu is not None and is_lost:
            what = f"its {session.mig_profile} on GPU {gpu.index} is gone"
            findings.append(Finding(Place.DRIVER, what, "the session is closed once Docker answers"))
        deviations = container.deviations if container and session.status == Status.ACTIVE else ()
        problems = [self.open_network, *map(str, deviations), _gpu_problem(session, gpus)]
        return SessionState(
            state,
            reason,
            self._mark(session, [problem for problem in problems if problem], gpus),
            any(deviation.is_repairable for deviation in deviations),
            findings,
        )

    def _judge(
        self, session: SessionColumns, container: Container | None, is_lost: bool
    ) -> tuple[State, Reason | None]:
        if self.containers is None:
            return State.UNKNOWN, None
        state = State.GONE if container is None else State.ENDED
        if (container is None or container.ended) and self._is_older(session):
            return state, Reason.RESTARTED
        if is_lost:
            return state, Reason.GPU_LOST
        if container is None:
            return State.GONE, Reason.FAILED
        return (State.ENDED, container.reason) if container.ended else (State.RUNNING, None)

    def _mark(self, session: SessionColumns, problems: Sequence[str], gpus: Mapping[str, Gpu]) -> str | None:
        """One sentence for each problem. The last problem stays while Docker or the GPUs do not answer."""
        is_unknown = self.containers is None or session.gpu is None or not gpus
        return " ".join(problems) or (session.problem if is_unknown else None)

    def _is_older(self, session: SessionColumns) -> bool:
        """Whether the session is from before `up_since`. `created_at` has whole seconds."""
        return self.up_since is not None and session.created_at < self.up_since.replace(microsecond=0)

    def _container_findings(self, container: Container | None) -> Sequence[Finding]:
        if self.containers is None:
            return []
        if container is None:
            return [Finding(Place.DOCKER, "no container")]
        if container.ended:
            return [Finding(Place.DOCKER, "its container has ended")]
        return [Finding(Place.DOCKER, each.what, _then(each)) for each in container.deviations]

    def _file_findings(self, session: SessionColumns) -> Sequence[Finding]:
        if self.files is None or session.id in self.files:
            return []
        return [Finding(Place.FILES, "none; its sshd needs them", NOT_REPAIRED)]


def _then(deviation: Deviation) -> str:
    return "repaired at the next tick" if deviation.is_repairable else MARKED


def has_lost_slice(gpu: Gpu, session: SessionColumns) -> bool:
    """Whether a GPU with a complete list of instances does not list the session's slice. An instance without
    a compute instance has no UUID yet, so it may be the session's. A whole GPU is lost once MIG is on."""
    if session.mig_profile == FULL and gpu.mig_mode is not MigMode.ENABLED:
        return False
    if gpu.fault is not None or not gpu.complete or gpu.mig_mode is MigMode.UNSUPPORTED:
        return False
    return not any(
        instance.placement == session.placement and instance.mig_uuid in (None, session.gpu_uuid)
        for instance in gpu.instances
    )


def _gpu_problem(session: SessionColumns, gpus: Mapping[str, Gpu]) -> str | None:
    """A faulty or unlisted GPU never ends a session; the session is only marked."""
    gpu = gpus.get(session.gpu or "")
    if session.gpu is None or not gpus:
        return None
    if gpu is None:
        return f"The driver does not answer for GPU {session.gpu}; see nvidia-smi -L and dmesg."
    return f"GPU {gpu.index} is out of order: {gpu.fault}." if gpu.fault else None
