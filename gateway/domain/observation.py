"""What a host shows of sessions, and how one server's parts are read. Pure.

A host answers for each session: it runs, it ended and why, it is gone, or nobody can tell. A part that cannot
be asked makes its sessions unknown, never gone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from gateway.domain.mig import Gpu, MigMode
from gateway.domain.models import Reason, Session


class State(StrEnum):
    RUNNING = "running"
    ENDED = "ended"  # something of it is left, but it cannot be used any more
    GONE = "gone"
    UNKNOWN = "unknown"


class Place(StrEnum):
    """Where parts of a session exist."""

    DATABASE = "database"
    DOCKER = "Docker"
    DRIVER = "GPU driver"
    PIPES = "pipe file"
    FILES = "session files"


@dataclass(frozen=True, slots=True)
class Finding:
    """`what` is wrong at `place`; `then` is what follows if the session stays open."""

    place: Place
    what: str
    then: str = ""


@dataclass(frozen=True, slots=True)
class SessionState:
    """`reason`: why it ended or is gone. `problem`: what is wrong with a session that goes on."""

    state: State
    reason: Reason | None = None
    problem: str | None = None
    findings: Sequence[Finding] = ()


@dataclass(frozen=True, slots=True)
class Observation:
    """What a host shows at one look.

    `states` has every session that was asked about. `held` maps the id of each session, known or not, to the
    places that hold something of it. `claimed` says of each id with files whether a process
    opens or removes it now. `unseen` says why a place could not be read.
    """

    states: Mapping[str, SessionState]
    held: Mapping[str, Sequence[Place]] = field(default_factory=dict)
    claimed: Mapping[str, bool] = field(default_factory=dict)
    unseen: Mapping[Place, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Container:
    """A container that carries a session's label. `ended`: its main process is over. `foreign`: another
    database records the session."""

    id: str
    session_id: str
    ended: bool
    foreign: bool = False


@dataclass(frozen=True, slots=True)
class ServerView:
    """The parts of one server at one look.

    `containers` is None when Docker could not be asked. `gpus` are those that answered; a GPU that is missing
    here is unknown. `files` are the ids with session files and whether they are claimed, None when the
    directory could not be read. Docker kept nothing from before `up_since`; None: unknown.
    """

    containers: Sequence[Container] | None
    gpus: Sequence[Gpu] = ()
    files: Mapping[str, bool] | None = field(default_factory=dict)
    up_since: datetime | None = None
    unseen: Mapping[Place, str] = field(default_factory=dict)

    def observe(self, sessions: Sequence[Session]) -> Observation:
        """`sessions` were read before this view was taken."""
        found = self.containers or ()
        foreign = {container.session_id for container in found if container.foreign}
        containers = {one.session_id: one for one in found if not one.foreign}
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

    def _state(self, session: Session, container: Container | None, gpus: Mapping[str, Gpu]) -> SessionState:
        gpu = gpus.get(session.gpu or "")
        is_lost = gpu is not None and has_lost_slice(gpu, session)
        state, reason = self._judge(session, container, is_lost)
        findings = [*self._container_findings(container), *self._file_findings(session)]
        if gpu is not None and is_lost:
            what = f"its {session.mig_profile} on GPU {gpu.index} is gone"
            findings.append(Finding(Place.DRIVER, what, "the session is closed once Docker answers"))
        return SessionState(state, reason, _problem(session, gpus), findings)

    def _judge(
        self, session: Session, container: Container | None, is_lost: bool
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
        return (State.ENDED, Reason.USER_EXIT) if container.ended else (State.RUNNING, None)

    def _is_older(self, session: Session) -> bool:
        """Sessions are dated in whole seconds."""
        return self.up_since is not None and session.created_at < self.up_since.replace(microsecond=0)

    def _container_findings(self, container: Container | None) -> Sequence[Finding]:
        if self.containers is None:
            return []
        if container is None:
            return [Finding(Place.DOCKER, "no container")]
        return [Finding(Place.DOCKER, "its container has ended")] if container.ended else []

    def _file_findings(self, session: Session) -> Sequence[Finding]:
        if self.files is None or session.id in self.files:
            return []
        return [Finding(Place.FILES, "none; its sshd needs them", "not repaired: delete the session")]


def has_lost_slice(gpu: Gpu, session: Session) -> bool:
    """Whether a GPU that answers in full does not list the session's slice. An instance without a compute
    instance has no UUID yet; it may be the session's."""
    if gpu.fault is not None or not gpu.complete or gpu.mig_mode is MigMode.UNSUPPORTED:
        return False
    return not any(
        instance.placement == session.placement and instance.mig_uuid in (None, session.gpu_uuid)
        for instance in gpu.instances
    )


def _problem(session: Session, gpus: Mapping[str, Gpu]) -> str | None:
    """A faulty or unlisted GPU never ends a session; the session is only marked. When no GPU answered,
    nothing is known, and the mark stays as it is."""
    if not gpus or session.gpu is None:
        return session.problem
    gpu = gpus.get(session.gpu)
    if gpu is None:
        return f"The driver does not answer for GPU {session.gpu}; see nvidia-smi -L and dmesg."
    return f"GPU {gpu.index} is out of order: {gpu.fault}." if gpu.fault else None
