"""Places between the steps of opening and closing a session, where a test can make the process fail.

GATEWAY_FAILPOINTS switches them on, for example `after-container-start=kill,after-pipe-remove=error`.
`kill` sends SIGKILL, so the process neither flushes nor undoes anything. `error` raises an error the first
time, so that the running gateway can recover.
"""

import os
import signal
from collections.abc import Callable

from gateway.errors import StartRefused, Unavailable

CREATE = (
    "after-intent-commit",
    "after-workspace-make",
    "after-gpu-instance-create",
    "after-compute-instance-create",
    "after-session-files-write",
    "after-container-create",
    "after-container-start",
    "after-sshd-answer",
    "after-activate",
    "after-pipe-write",
    "after-pipe-publish",
)
DELETE = (
    "after-closing-commit",
    "after-notice-write",
    "after-pipe-remove",
    "after-container-remove",
    "after-compute-instance-destroy",
    "after-gpu-instance-destroy",
    "after-end",
    "after-session-files-remove",
)
CLUSTER_CREATE = (
    "after-home-create",
    "after-secret-create",
    "after-device-claim-create",
    "after-pod-create",
    "after-pod-run",
    "after-login",
)
CLUSTER_ROUTE = ("after-router-key-create",)
CLUSTER_DELETE = ("after-pod-remove", "after-device-claim-remove", "after-secret-remove")
LINE = ("after-line-join", "after-line-move", "after-line-leave", "after-put-back")
EXTEND = ("after-extend-commit", "after-lease-files-write")
WARN = ("after-warning-shown", "after-warning-commit")
WEBHOOK = ("after-webhook-sent", "after-webhook-recorded")
PLACES = CREATE + DELETE + CLUSTER_CREATE + CLUSTER_ROUTE + CLUSTER_DELETE + LINE + EXTEND + WARN + WEBHOOK
ACTIONS = ("kill", "error")

_armed: dict[str, str] = {}


def arm(text: str) -> None:
    """Set the failpoints of this process to those in `text`. Raises `StartRefused` for an unknown one."""
    _armed.clear()
    for item in filter(None, text.split(",")):
        place, _, action = item.strip().partition("=")
        if place not in PLACES or action not in ACTIONS:
            raise StartRefused(
                f"GATEWAY_FAILPOINTS: {item!r} is invalid. Use PLACE=ACTION, where ACTION is one of "
                f"{', '.join(ACTIONS)} and PLACE is one of {', '.join(PLACES)}."
            )
        _armed[place] = action


def reach(place: str, error: Callable[[str], Exception] = Unavailable) -> None:
    """Mark that the step before `place` is done. `error` is the error that this step can really raise."""
    if _armed and place in _armed:
        _act(place, error)


def _act(place: str, error: Callable[[str], Exception]) -> None:
    if _armed.pop(place) == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise error(f"The failpoint {place} failed this step on purpose.")
