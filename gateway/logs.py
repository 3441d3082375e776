"""Logs for people and machines: one line an event, every fact a field of it."""

import json
import logging
import re
import sys
import time
from typing import Any

from gateway.domain import audit

FORMATS = ("text", "json")

_PLAIN = re.compile(r"[!#-<>-~]+")  # no space, no quote, no equals sign, nothing that is not ASCII
_OWN = {*vars(logging.makeLogRecord({})), "message", "asctime"}
_QUIET = {"alembic": logging.WARNING, "asyncssh": logging.ERROR}


def log_to_stderr(form: str) -> None:
    """From now on, as one of `FORMATS`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Json() if form == "json" else Text())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for name, level in _QUIET.items():
        logging.getLogger(name).setLevel(level)


class Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(facts(record), default=str)


class Text(logging.Formatter):
    """`time=… level=info logger=gateway.sessions message="session opened" session_id=…`, as logfmt."""

    def format(self, record: logging.LogRecord) -> str:
        return " ".join(f"{name}={_quoted(str(fact))}" for name, fact in facts(record).items())


def facts(record: logging.LogRecord) -> dict[str, Any]:
    """What the record tells, by name: its `extra` too, who acts if somebody does, and a traceback."""
    whole_seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    told: dict[str, Any] = {
        "time": f"{whole_seconds}.{int(record.msecs):03}Z",
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": record.getMessage(),
        **{name: fact for name, fact in vars(record).items() if name not in _OWN and fact is not None},
    }
    if (actor := audit.actor.get()) != audit.GATEWAY:
        told["actor"] = actor
    if record.exc_info:
        told["traceback"] = logging.Formatter().formatException(record.exc_info)
    return told


def _quoted(fact: str) -> str:
    """Quoted as JSON has it where it could be misread: no fact breaks a line or forges a field."""
    return fact if _PLAIN.fullmatch(fact) else json.dumps(fact)
