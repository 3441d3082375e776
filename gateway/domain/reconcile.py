"""What must be done so that the machine agrees with the database again: decided here, done elsewhere."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from gateway.domain.clock import Moment
from gateway.domain.mig import Gpu, MigMode
from gateway.domain.models import Reason, Session, Status
from gateway.domain.plan import Container


@dataclass(frozen=True, slots=True)
class Seen:
    """What the machine shows: `containers` is None when Docker could not be asked; `remains` are ids of
    sessions that have files, and whether somebody is opening them; `gpus` those GPUs that could be asked.
    A GPU that is not among them is unknown, not gone. What stood before `up_since` ended with a restart,
    unless it is there; None when that is not known."""

    containers: Sequence[Container] | None
    leftovers: Mapping[str, bool] = field(default_factory=dict)
    gpus: Sequence[Gpu] = ()
    up_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """`close`: sessions to take back, and why. `problems`: what is now to be said of sessions that stay,
    None for those that are well again. `orphans`: ids without a row that something is left of."""

    close: Mapping[str, Reason]
    problems: Mapping[str, str | None]
    orphans: Sequence[str]


def plan(sessions: Iterable[Session], seen: Seen, now: Moment) -> Plan:
    """`sessions` were read before anything was `seen`."""
    containers = {container.session_id: container for container in seen.containers or ()}
    gpus = {gpu.uuid: gpu for gpu in seen.gpus}
    rows = {session.id: session for session in sessions}
    opening = {id for id, claimed in seen.leftovers.items() if claimed}
    verdicts = {
        id: _verdict(session, seen, containers.get(id), gpus.get(session.gpu or ""), now)
        for id, session in rows.items()
    }
    return Plan(
        close={id: reason for id, reason in verdicts.items() if reason},
        problems=_problems([rows[id] for id, reason in verdicts.items() if reason is None], gpus),
        orphans=sorted((containers.keys() | seen.leftovers.keys()) - rows.keys() - opening),
    )


def _verdict(
    session: Session, seen: Seen, container: Container | None, gpu: Gpu | None, now: Moment
) -> Reason | None:
    """Why the session must be closed, or None when it is fine as it is."""
    if session.is_being_opened(now, seen.leftovers.get(session.id)):
        return None
    if session.status == Status.CLOSING:
        return Reason(str(session.end_reason))
    if session.status == Status.PENDING:
        return Reason.FAILED
    if seen.containers is None:
        return None  # nor could it be taken back; what became of it is told by what Docker answers
    if (container is None or container.ended) and _is_older(session, seen.up_since):
        return Reason.RESTARTED
    if gpu is not None and has_lost_slice(gpu, session):
        return Reason.GPU_LOST
    if container is None:
        return Reason.FAILED
    return Reason.USER_EXIT if container.ended else None


def _is_older(session: Session, up_since: datetime | None) -> bool:
    """Sessions are dated in whole seconds."""
    return up_since is not None and session.created_at < up_since.replace(microsecond=0)


def has_lost_slice(gpu: Gpu, session: Session) -> bool:
    """Whether a GPU that answers in full does not list the session's slice. One without a compute
    instance has no UUID to tell it by, and is given the benefit of the doubt."""
    if gpu.fault is not None or gpu.mig_mode is MigMode.UNSUPPORTED:
        return False
    return not any(
        instance.placement == session.placement and instance.mig_uuid in (None, session.gpu_uuid)
        for instance in gpu.instances
    )


def _problems(staying: Sequence[Session], gpus: Mapping[str, Gpu]) -> Mapping[str, str | None]:
    """Nothing ends on the word of a GPU that is out of order, or that is not named by a driver that names
    others: it does not tell the UUID of one that was lost before it was first asked. Sessions are marked."""
    if not gpus:
        return {}
    problems = {session: _problem(session.gpu, gpus) for session in staying if session.gpu}
    return {session.id: problem for session, problem in problems.items() if problem != session.problem}


def _problem(uuid: str, gpus: Mapping[str, Gpu]) -> str | None:
    gpu = gpus.get(uuid)
    if gpu is None:
        return f"The driver does not answer for GPU {uuid}; see nvidia-smi -L and dmesg."
    return f"GPU {gpu.index} is out of order: {gpu.fault}." if gpu.fault else None
