"""What is decided about a session before anything is made: address, slice, container, route."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from gateway.domain.mig import Placement
from gateway.domain.models import Session
from gateway.domain.pipe import Pipe
from gateway.domain.ssh_keys import KeyPair

SSH_PORT = 2222  # of a session's sshd; unprivileged, since it runs without root


@dataclass(frozen=True, slots=True)
class Allocation:
    """The piece of a GPU that a session is meant to have; `gpu` is the GPU's UUID.

    A `borrowed` one stood before the session and outlives it. `mig_uuid` is what the driver called it,
    None until it is known.
    """

    gpu: str
    profile: str
    placement: Placement
    borrowed: bool = False
    mig_uuid: str | None = None


@dataclass(frozen=True, slots=True)
class SessionPlan:
    """All that is decided about a session before anything is made."""

    session_id: str
    user_id: str
    uid: int
    allocation: Allocation
    address: str
    router_key: str  # public key of the router, the only one that the session's sshd lets in
    host_key: KeyPair
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Started:
    container_id: str
    gpu_uuid: str  # of the MIG device


@dataclass(frozen=True, slots=True)
class Container:
    """A container that carries a session's label. `ended`: its main process is over."""

    id: str
    session_id: str
    ended: bool


class Endings(Protocol):
    """Ids of sessions whose container ended or was removed, as it happens. The iteration is over when the
    way to Docker breaks, or once `close` is called, from whatever thread."""

    def __iter__(self) -> Iterator[str]: ...
    def close(self) -> None: ...


def allocation(session: Session) -> Allocation | None:
    if session.gpu is None or session.placement is None:
        return None
    return Allocation(session.gpu, session.mig_profile, session.placement, session.borrowed, session.gpu_uuid)


def plan(session: Session, uid: int, allocation: Allocation, router: KeyPair, sshd: KeyPair) -> SessionPlan:
    return SessionPlan(
        session_id=session.id,
        user_id=session.user_id,
        uid=uid,
        allocation=allocation,
        address=session.address,
        router_key=router.public,
        host_key=sshd,
        expires_at=session.expires_at,
    )


def pipe(session: Session) -> Pipe:
    return Pipe(
        session_id=session.id,
        username=session.user_id,
        public_keys=tuple(session.public_keys),
        host=session.address,
        port=SSH_PORT,
        private_key=session.private_key,
        host_key=session.host_key,
    )
