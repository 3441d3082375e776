"""Places where a test stops or fails the process: between any two steps of create and of delete.

Off unless GATEWAY_FAILPOINTS says otherwise, such as `after-container-start=kill,after-pipe-remove=error`.
`kill` is SIGKILL, so nothing is flushed or undone; `error` raises once a process, so that the running
gateway can recover.
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
    "after-pipe-remove",
    "after-container-remove",
    "after-compute-instance-destroy",
    "after-gpu-instance-destroy",
    "after-end",
    "after-session-files-remove",
)
ACTIONS = ("kill", "error")

_armed: dict[str, str] = {}


def arm(text: str) -> None:
    """Set this process's failpoints to those in `text`; raises `StartRefused` for one that there is not."""
    _armed.clear()
    for item in filter(None, text.split(",")):
        place, _, action = item.strip().partition("=")
        if place not in CREATE + DELETE or action not in ACTIONS:
            raise StartRefused(
                f"GATEWAY_FAILPOINTS: {item!r} is not PLACE=ACTION with an action of {', '.join(ACTIONS)} "
                f"and a place of {', '.join(CREATE + DELETE)}."
            )
        _armed[place] = action


def reach(place: str, error: Callable[[str], Exception] = Unavailable) -> None:
    """The step before is done. `error` is what can really go wrong here."""
    if _armed and place in _armed:
        _act(place, error)


def _act(place: str, error: Callable[[str], Exception]) -> None:
    if _armed.pop(place) == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise error(f"Failed on purpose: {place}.")
