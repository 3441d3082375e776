"""The plan of a session, decided before anything is made, and what the host then made."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from gateway.domain.board import Board
from gateway.domain.mig import Gpu, Placement
from gateway.domain.ssh_keys import KeyPair

SSH_PORT = 2222  # of a session's sshd; an unprivileged port, because the sshd does not run as root


@dataclass(frozen=True, slots=True)
class Allocation:
    """The piece of a GPU that a session holds. `gpu` is the GPU's UUID.

    A `borrowed` instance existed before the session and outlives it. `mig_uuid` is the MIG device's UUID,
    None until the device exists.
    """

    gpu: str
    profile: str
    placement: Placement
    borrowed: bool = False
    mig_uuid: str | None = None


@dataclass(frozen=True, slots=True)
class SessionRequest:
    """What a session needs, before a host has planned it.

    `mig_profile` is None when the caller leaves the choice to the host. `router_key` is the public key that
    the session's sshd accepts; `host_key` is the key pair of that sshd. `image` is what `Host.pin_image`
    returned, empty for the image of the settings.
    """

    session_id: str
    user_id: str
    uid: int
    mig_profile: str | None
    created_at: datetime
    expires_at: datetime
    router_key: str
    host_key: KeyPair
    image: str = ""


@dataclass(frozen=True, slots=True)
class SessionPlan:
    """Where a session goes. A host with its own scheduler leaves `allocation` and `address` None, and takes
    `gpu` for advice, and `others` for the next best, on other nodes.

    `host_share` is the allocation's part of all memory slices of the host; 0 if it is not known. `board` is
    what the session shows its user from the beginning; None for what every session shows."""

    request: SessionRequest
    mig_profile: str
    gpu: Gpu | None = None
    allocation: Allocation | None = None
    address: str | None = None
    host_share: float = 0.0
    others: tuple[Gpu, ...] = ()
    board: Board | None = None

    @property
    def gpu_share(self) -> float | None:
        """The share of the GPU's compute slices that the session gets; None while it is unknown."""
        profile = self.gpu.profile(self.mig_profile) if self.gpu else None
        if self.gpu is None or profile is None or not self.gpu.compute_slices:
            return None
        return min(1.0, profile.compute_slices / self.gpu.compute_slices)


@dataclass(frozen=True, slots=True)
class Started:
    """A running session: its container, the address where its sshd listens, and its slice."""

    container_id: str
    address: str
    allocation: Allocation


class Endings(Protocol):
    """Yields the ids of sessions when their container ends or is removed. The iteration ends when the
    connection to the host breaks, or when any thread calls `close`."""

    def __iter__(self) -> Iterator[str]: ...
    def close(self) -> None: ...
