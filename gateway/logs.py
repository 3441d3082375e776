"""The text log: one line for each event, with each fact as a field."""

import json
import logging
import re
import sys
import time
from typing import Any

from gateway.domain import audit

FORMATS = ("text", "json")

_PLAIN = re.compile(r"[!#-<>-~]+")  # printable ASCII except space, quotation mark and equals sign
_OWN = {*vars(logging.makeLogRecord({})), "message", "asctime"}
_QUIET = {"alembic": logging.WARNING, "asyncssh": logging.ERROR}


def log_to_stderr(form: str) -> None:
    """Send all log records to standard error; `form` is one of `FORMATS`."""
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
    """Return the fields of a log line: the record's own, its `extra`, the actor and the traceback if any."""
    whole_seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    fields: dict[str, Any] = {
        "time": f"{whole_seconds}.{int(record.msecs):03}Z",
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": record.getMessage(),
        **{name: fact for name, fact in vars(record).items() if name not in _OWN and fact is not None},
    }
    if (actor := audit.actor.get()) != audit.GATEWAY:
        fields["actor"] = actor
    if record.exc_info:
        fields["traceback"] = logging.Formatter().formatException(record.exc_info)
    return fields


def _quoted(fact: str) -> str:
    """Quote `fact` as JSON if it has a character that could end the line or begin another field."""
    return fact if _PLAIN.fullmatch(fact) else json.dumps(fact)
