"""The router's log lines: one an event, with the same fields in the same order."""

import logging
from collections.abc import Mapping
from typing import Any

log = logging.getLogger(__name__)

_MESSAGES = {
    "accepted": "login accepted",
    "refused": "login refused",
    "closed": "connection closed",
    "fault": "a pipe is not served",
}
_FIELDS = ("user_id", "address", "session_id", "reason", "detail", "error")


def write(event: str, facts: Mapping[str, Any]) -> None:
    """Log an event of a worker. Lines about one user's logins are a kind of their own."""
    message = _MESSAGES[event]
    kind = facts.get("user_id") if event in ("accepted", "closed") else facts.get("reason")
    fields = {name: facts[name] for name in _FIELDS if facts.get(name) is not None}
    level = logging.WARNING if event == "fault" else logging.INFO
    log.log(level, message, extra={**fields, "kind": f"{message} {kind}"})
