"""The states of a session, why it ended, and where its keys came from."""

from enum import StrEnum


class Status(StrEnum):
    PENDING = "pending"
    ACTIVE = "active"
    CLOSING = "closing"


# The statuses that may follow each status. After the last one the row becomes a row of `ended_sessions`.
NEXT: dict[str | None, frozenset[Status]] = {
    None: frozenset({Status.PENDING}),
    Status.PENDING: frozenset({Status.ACTIVE, Status.CLOSING}),
    Status.ACTIVE: frozenset({Status.CLOSING}),
    Status.CLOSING: frozenset(),
}


class Reason(StrEnum):
    """Why a session ended."""

    DELETED = "deleted"
    IDLE = "idle"  # nobody used it
    EXPIRED = "expired"
    USER_EXIT = "user_exit"
    FAILED = "failed"
    GAVE_UP = "gave_up"  # nothing became free while the request waited
    UNCLAIMED = "unclaimed"  # it was opened for a request that waited, and nobody logged in
    GPU_LOST = "gpu_lost"
    RESTARTED = "restarted"  # its container, Docker or the whole server was restarted
    STOPPED = "stopped"  # by `docker stop`
    KILLED = "killed"  # by `docker kill`, or by another process of the host
    OUT_OF_MEMORY = "out_of_memory"  # the kernel killed its first process


def cause(reason: str, note: str | None) -> str:
    return f"{reason}: {note}" if note else reason


class KeysFrom(StrEnum):
    """The source of a session's public keys. Only `STORED` keys change with the keys stored for the user."""

    GIVEN = "given"  # for this session, by a request
    STORED = "stored"
    MADE = "made"  # by the gateway, as a pair
