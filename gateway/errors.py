"""Every error that the gateway reports to a person.

The classes know neither HTTP nor the command line: `api.errors` turns each into problem+json, `cli` into one
line and an exit status. A message says what is wrong and what to do. It contains no host path, no SQL and no
secret.

    GatewayError
    ├── InvalidRequest          the request asks for something impossible
    │   └── UnknownProfile        … a MIG profile that no GPU of this host has
    ├── Unauthenticated         the token is missing or not valid
    ├── Forbidden               the caller's role does not allow the request
    │   └── ForeignOrigin         … because it comes from a web page of another site
    ├── UntrustedHost           the request names a host that is not the gateway
    ├── TooManyChanges          one token changes more in a minute than it may
    ├── TooManyFailures         one address sent too many requests without a valid token
    ├── GpuNotFound             this host has no GPU of that name
    ├── UserNotFound            the gateway knows no user with that id
    ├── PolicyNotFound          there is no policy of that name
    ├── PolicyRefused           a policy does not allow the request
    ├── WebhookNotFound         there is no webhook of that name
    ├── WebhookOff              the webhook's receiver wanted no more
    ├── DeliveryNotFound        the webhook has no delivery with that id
    ├── DeliveryFailed          a webhook's receiver did not answer
    ├── SessionNotFound         no session ever had that id
    │   └── SessionWaits          … because the request with that id is still in line
    ├── NotInLine               the session is open and has no place in line
    ├── SessionEnded            the session has ended
    ├── LeaseMoved              the lease has another end than the caller saw
    ├── LeaseTooLong            the lease would become longer than the limit
    ├── WaitedFor               the slice of the lease was promised to a request in line
    ├── SessionExists           the user has a live session already, or waits for one
    ├── UserRouted              a hand-written pipe routes the user elsewhere
    ├── NoCapacity              no GPU has room for the profile now
    ├── Unavailable             a part of the host does not answer or is not ready
    │   ├── DatabaseUnavailable
    │   │   └── DatabaseReadOnly
    │   ├── DockerUnavailable
    │   ├── KubernetesUnavailable
    │   ├── ImageMissing
    │   ├── NetworkUnavailable
    │   │   └── NetworkOpen         sessions reach what they must not reach
    │   ├── AddressTaken          another container has the session's address
    │   ├── ContainerFailed       a container was created, but its sshd did not answer
    │   ├── DriverUnavailable     NVML cannot be loaded, read or written
    │   │   └── GpuLost             … for one GPU
    │   ├── SliceBusy             a process or a monitor holds a GPU instance
    │   ├── PlacementTaken        another GPU instance occupies the chosen placement
    │   ├── PipesUnavailable      the pipe file cannot be read, understood or written
    │   └── WorkspaceRefused      a symbolic link or another user's directory is in the workspace's place
    ├── WorkspaceFull           the user's workspace is above its quota
    ├── DiskFull                a disk is full
    └── StartRefused            the gateway cannot start with these settings or this database
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple


class GatewayError(Exception):
    """The root of the tree. `str(error)` is the message for a person."""


class InvalidRequest(GatewayError):
    """`errors` maps the name of each invalid field to its messages."""

    def __init__(self, message: str, errors: Mapping[str, Sequence[str]] | None = None) -> None:
        super().__init__(message)
        self.errors = {field: list(messages) for field, messages in (errors or {}).items()}


class UnknownProfile(InvalidRequest):
    def __init__(self, name: str, available: Sequence[str]) -> None:
        offered = ", ".join(available) or "none"
        message = f"No GPU of this host has the MIG profile {name!r}. Available profiles: {offered}."
        super().__init__(message, {"mig_profile": [message]})
        self.available_profiles = list(available)


class Unauthenticated(GatewayError):
    """`given`: the request had a token that is wrong, expired or revoked. The message does not say which."""

    def __init__(self, given: bool) -> None:
        problem = "The token is not valid" if given else "This request needs a token"
        super().__init__(
            f"{problem}: send `Authorization: Bearer TOKEN`. `gateway token create` on the gateway's host "
            "makes one."
        )
        self.given = given


class Forbidden(GatewayError):
    pass


class ForeignOrigin(Forbidden):
    def __init__(self, origin: str) -> None:
        super().__init__(
            f"A web page may not use this API: the request comes from {origin[:200]}. Call the API from a "
            "script or from the command line."
        )


class UntrustedHost(GatewayError):
    def __init__(self, host: str) -> None:
        super().__init__(
            f"{host[:200]!r} is not a host name of this gateway: use the name of --ssh-host, localhost or an "
            "address of the gateway, or add the name with --trusted-hosts."
        )


class TooManyChanges(GatewayError):
    def __init__(self, wait_seconds: int) -> None:
        super().__init__(f"This token asks for too much at once; try again in {wait_seconds} s.")
        self.wait_seconds = wait_seconds


class TooManyFailures(GatewayError):
    def __init__(self, wait_seconds: int) -> None:
        super().__init__(f"Too many requests without a valid token: try again in {wait_seconds} s.")
        self.wait_seconds = wait_seconds


class GpuNotFound(GatewayError):
    def __init__(self, name: str, labels: Sequence[str]) -> None:
        """`labels` are those of all GPUs."""
        known = f"Its GPUs are {labels[0]} to {labels[-1]}" if labels else "It has no GPUs at all"
        super().__init__(f"This host has no GPU {name[:100]}. {known}; GET /gpus lists them.")


class UserNotFound(GatewayError):
    def __init__(self, user_id: str) -> None:
        super().__init__(
            f"The gateway knows no user {user_id!r}: a user becomes known by a session, by keys, or by PUT "
            "/users/{id}."
        )


class PolicyNotFound(GatewayError):
    def __init__(self, name: str) -> None:
        super().__init__(f"There is no policy {name[:100]!r}. GET /policies lists them.")


class PolicyRefused(GatewayError):
    """`rule` refused the request: `limit` is its value, `used` what stands against it. `retry_at` is when the
    same request is allowed, None if waiting does not help."""

    def __init__(
        self, message: str, rule: str, limit: object, used: object, retry_at: datetime | None
    ) -> None:
        super().__init__(message)
        self.rule = rule
        self.limit = limit
        self.used = used
        self.retry_at = retry_at


class WebhookNotFound(GatewayError):
    def __init__(self, name: str) -> None:
        super().__init__(f"There is no webhook {name[:100]!r}. GET /webhooks lists them.")


class WebhookOff(GatewayError):
    def __init__(self, name: str) -> None:
        super().__init__(
            f"The webhook {name} is off, because its receiver answered 410: set it again, by PUT "
            f"/webhooks/{name} or `gateway webhook set`, to switch it on."
        )


class DeliveryNotFound(GatewayError):
    def __init__(self, name: str, delivery_id: int) -> None:
        super().__init__(
            f"The webhook {name} has no delivery {delivery_id}. GET /webhooks/{name}/deliveries lists them."
        )


class DeliveryFailed(GatewayError):
    pass


class SessionNotFound(GatewayError):
    def __init__(self, session_id: str, message: str | None = None) -> None:
        unknown = f"No session has or had the id {session_id!r}. GET /sessions lists the live sessions."
        super().__init__(message or unknown)


class SessionWaits(SessionNotFound):
    def __init__(self, session_id: str, user_id: str) -> None:
        super().__init__(
            session_id,
            f"{user_id} still waits in line, and the session {session_id} is not open: try again when it is. "
            f"GET /sessions/{session_id} says what was promised.",
        )


class NotInLine(GatewayError):
    def __init__(self, session_id: str, user_id: str) -> None:
        super().__init__(
            f"The session {session_id} of {user_id} does not wait in line any more. GET /queue lists those "
            "who do."
        )


class SessionEnded(GatewayError):
    """`note` are the words of the caller who deleted the session."""

    def __init__(self, session_id: str, reason: str, ended_at: datetime, note: str | None = None) -> None:
        cause = f"{reason}: {note}" if note else reason
        super().__init__(f"Session {session_id} has ended ({cause}). POST /sessions creates a new one.")
        self.reason = reason
        self.ended_at = ended_at
        self.note = note


class LeaseMoved(GatewayError):
    """`expires_at` is the end that the lease has now."""

    def __init__(self, expires_at: datetime) -> None:
        super().__init__(
            f"The lease now ends at {expires_at:%Y-%m-%d %H:%M:%S} UTC: an earlier request may have extended "
            "it. Compare the ends, and send the request again with the new one in `ends` if you want more."
        )
        self.expires_at = expires_at


class LeaseTooLong(GatewayError):
    """`latest_end` is the latest end possible now; None if the lease cannot be extended any more. `limit` is
    how many minutes a whole lease lasts at most."""

    rule = "max_lease_minutes"

    def __init__(self, message: str, latest_end: datetime | None, limit: int) -> None:
        super().__init__(message)
        self.latest_end = latest_end
        self.limit = limit


class WaitedFor(GatewayError):
    """The lease would reach into a promise or a maintenance. `latest_end` is the latest end possible, None if
    the lease cannot be extended. `waiting` is the promise, None for a maintenance."""

    def __init__(self, latest_end: datetime | None, until: datetime, waiting: "Promise | None") -> None:
        what = "its GPU is in maintenance" if waiting is None else "somebody else was promised this slice"
        advice = (
            f"Extend to {latest_end:%Y-%m-%d %H:%M:%S} UTC at the latest"
            if latest_end
            else "Wait in line again"
        )
        super().__init__(
            f"The lease cannot last beyond {until:%Y-%m-%d %H:%M:%S} UTC, because then {what}. {advice}."
        )
        self.latest_end, self.waiting = latest_end, waiting


class Promise(NamedTuple):
    """What a request in line was promised. `user_id` is for operators only."""

    user_id: str
    mig_profile: str
    promised_at: datetime | None


class SessionExists(GatewayError):
    def __init__(
        self, user_id: str, session_id: str, *, is_waiting: bool = False, is_closing: bool = False
    ) -> None:
        what = "waits in line already with the request" if is_waiting else "already has the live session"
        super().__init__(
            f"The session {session_id} of {user_id} is being closed, and a part of it still exists: try "
            "again soon. Its problem, if there is one, is in GET /sessions."
            if is_closing
            else f"{user_id} {what} {session_id}: use it, or DELETE it and create another."
        )
        self.session_id = session_id


class UserRouted(GatewayError):
    def __init__(self, user_id: str) -> None:
        super().__init__(
            f"A hand-written pipe above the gateway's marks routes {user_id} elsewhere, so the session would "
            "be unreachable. Move that pipe below the marks, or choose another user_id."
        )


class NoCapacity(GatewayError):
    """`retry_at` is the earliest end of a lease that makes room; None if no end does. `mig_profile` is the
    profile that was asked for; None if it was not decided yet."""

    def __init__(
        self, message: str, retry_at: datetime | None = None, mig_profile: str | None = None
    ) -> None:
        super().__init__(message)
        self.retry_at = retry_at
        self.mig_profile = mig_profile


class Unavailable(GatewayError):
    """A part did not answer. What it holds is unknown; it must not be treated as gone."""


class DatabaseUnavailable(Unavailable):
    pass


class DatabaseReadOnly(DatabaseUnavailable):
    pass


class DockerUnavailable(Unavailable):
    pass


class KubernetesUnavailable(Unavailable):
    pass


class ImageMissing(Unavailable):
    pass


class NetworkUnavailable(Unavailable):
    pass


class NetworkOpen(NetworkUnavailable):
    """Sessions reach each other, the host or the outside, or nothing prevents that any more."""


class AddressTaken(Unavailable):
    """Docker gave the address to another container."""


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
            f"{user_id}'s workspace held {used} at the last measurement; its quota is {quota}. Remove files "
            "from it, or raise --workspace-quota. The gateway measures it every five minutes."
        )


class DiskFull(GatewayError):
    pass


class StartRefused(GatewayError):
    pass
