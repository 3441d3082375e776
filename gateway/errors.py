"""Every way the gateway says no.

The classes know no HTTP and no command line: `api.errors` turns each into a problem+json answer,
`cli` into one line and an exit code. The message says what was wrong and what to do; it never
carries a host path, an SQL text or a secret.

    GatewayError
    ├── InvalidRequest          a person asked for something that cannot be
    │   └── UnknownProfile        … a MIG profile that no GPU here offers
    ├── Unauthenticated         no token, or none that is valid
    ├── Forbidden               the caller's role does not go that far
    ├── TooManyFailures         wrong tokens again and again from one address
    ├── GpuNotFound             this host has no GPU of that index
    ├── SessionNotFound         no session ever had that id
    ├── SessionEnded            it had, and is over
    ├── SessionExists           the user has a live session already
    ├── NoCapacity              no GPU has room for the profile now
    ├── Unavailable             a part of the machine is out of reach or not ready
    │   ├── DatabaseUnavailable
    │   ├── DockerUnavailable
    │   ├── ImageMissing
    │   ├── NetworkUnavailable
    │   ├── ContainerFailed       a container was made but its sshd never spoke
    │   ├── DriverUnavailable     NVML cannot be loaded, asked or written to
    │   │   └── GpuLost             … as far as one GPU is concerned
    │   ├── SliceBusy             a GPU instance is held by a process or a monitor
    │   ├── PlacementTaken        something stands where the GPU instance was to go
    │   ├── PipesUnavailable      the pipe file cannot be read, understood or written
    │   └── WorkspaceRefused      a symlink or a stranger's directory stands in a workspace's place
    ├── WorkspaceFull           the user holds more of the disk than the quota
    ├── DiskFull                nothing more can be written
    └── StartRefused            the settings or the schema are not fit to serve with
"""

from collections.abc import Mapping, Sequence
from datetime import datetime


class GatewayError(Exception):
    """The root: `str(error)` is a sentence fit for a person."""


class InvalidRequest(GatewayError):
    """`errors` maps each field's name to what is wrong with it."""

    def __init__(self, message: str, errors: Mapping[str, Sequence[str]] | None = None) -> None:
        super().__init__(message)
        self.errors = {field: list(messages) for field, messages in (errors or {}).items()}


class UnknownProfile(InvalidRequest):
    def __init__(self, name: str, available: Sequence[str]) -> None:
        offer = ", ".join(available) or "none"
        message = f"No GPU of this host offers the MIG profile {name!r}; offered: {offer}."
        super().__init__(message, {"mig_profile": [message]})
        self.available_profiles = list(available)


class Unauthenticated(GatewayError):
    """`given`: a token was there, but is wrong, expired or revoked; which of these is not said."""

    def __init__(self, given: bool) -> None:
        wrong = "The token is not valid" if given else "This needs a token"
        super().__init__(
            f"{wrong}; send `Authorization: Bearer TOKEN`. `gateway token create`, on the gateway's host, "
            "makes one."
        )
        self.given = given


class Forbidden(GatewayError):
    pass


class TooManyFailures(GatewayError):
    def __init__(self, wait_seconds: int) -> None:
        super().__init__(f"Too many requests without a valid token; try again in {wait_seconds} s.")
        self.wait_seconds = wait_seconds


class GpuNotFound(GatewayError):
    def __init__(self, index: int, count: int) -> None:
        known = f"they are numbered 0 to {count - 1}" if count else "it has none"
        super().__init__(f"This host has no GPU {index}; {known}. GET /gpus lists them.")
        self.index = index


class SessionNotFound(GatewayError):
    def __init__(self, session_id: str) -> None:
        super().__init__(
            f"There is no session {session_id!r} and never was; GET /sessions lists the live ones."
        )


class SessionEnded(GatewayError):
    def __init__(self, session_id: str, reason: str, ended_at: datetime) -> None:
        super().__init__(f"Session {session_id} has ended ({reason}); create a new one with POST /sessions.")
        self.reason = reason
        self.ended_at = ended_at


class SessionExists(GatewayError):
    def __init__(self, user_id: str, session_id: str) -> None:
        super().__init__(
            f"{user_id} has the live session {session_id}; use it, or DELETE it before creating another."
        )
        self.session_id = session_id


class UserRouted(GatewayError):
    def __init__(self, user_id: str) -> None:
        super().__init__(
            f"A pipe written by hand above the gateway's takes {user_id} elsewhere, so nobody would reach "
            "the session: move that pipe below the gateway's marks, or choose another user_id."
        )


class NoCapacity(GatewayError):
    """`retry_at` is the earliest known expiry that makes room, None when no expiry would."""

    def __init__(self, message: str, retry_at: datetime | None = None) -> None:
        super().__init__(message)
        self.retry_at = retry_at


class Unavailable(GatewayError):
    """A part did not answer; what it holds is unknown, not gone."""


class DatabaseUnavailable(Unavailable):
    pass


class DockerUnavailable(Unavailable):
    pass


class ImageMissing(Unavailable):
    pass


class NetworkUnavailable(Unavailable):
    pass


class ContainerFailed(Unavailable):
    pass


class DriverUnavailable(Unavailable):
    pass


class GpuLost(DriverUnavailable):
    pass


class SliceBusy(Unavailable):
    pass


class PlacementTaken(Unavailable):
    pass


class PipesUnavailable(Unavailable):
    pass


class WorkspaceRefused(Unavailable):
    pass


class WorkspaceFull(GatewayError):
    def __init__(self, user_id: str, used: str, quota: str) -> None:
        super().__init__(
            f"{user_id}'s workspace held {used} when last measured and may hold {quota}: have files in it "
            "removed, or raise --workspace-quota. It is measured again every five minutes."
        )


class DiskFull(GatewayError):
    pass


class StartRefused(GatewayError):
    pass
