"""The text log: one line for each event, with each fact as a field."""

import json
import logging
import re
import sys
import time
from collections.abc import Callable
from typing import Any

from gateway.domain import audit

FORMATS = ("text", "json")
LEVELS = ("debug", "info", "warning", "error")

LINES_AT_ONCE = 5  # of one kind, before there is at most one a second

_PLAIN = re.compile(r"[!#-<>-~]+")  # printable ASCII except space, quotation mark and equals sign
_OWN = {*vars(logging.makeLogRecord({})), "message", "asctime", "kind"}
_QUIET = {"alembic": logging.WARNING, "httpx2": logging.WARNING}  # httpx2 logs each request


def log_to_stderr(form: str, level: str = "info", *filters: logging.Filter) -> None:
    """Send all log records and Python's warnings to standard error, as one of `FORMATS`.

    `level` is the least important one of `LEVELS` that is logged.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Json() if form == "json" else Text())
    for each in filters:
        handler.addFilter(each)
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.captureWarnings(True)
    for name, quiet in _QUIET.items():
        logging.getLogger(name).setLevel(quiet)


class OneLineASecond(logging.Filter):
    """Lets through one record of each kind a second, after a few at once; the next one counts the others.

    The kind of a record is its attribute `kind`, if it has one, else its logger and message.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._kinds: dict[object, _Kind] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        kind = getattr(record, "kind", (record.name, record.msg))
        return self._kinds.setdefault(kind, _Kind(self._clock())).passes(record, self._clock())


class _Kind:
    """The records of one kind, and how many of them may pass now."""

    def __init__(self, now: float) -> None:
        self._credit = float(LINES_AT_ONCE)
        self._now = now
        self._suppressed = 0

    def passes(self, record: logging.LogRecord, now: float) -> bool:
        self._credit = min(LINES_AT_ONCE, self._credit + now - self._now)
        self._now = now
        if self._credit < 1:
            self._suppressed += 1
            return False
        self._credit -= 1
        if self._suppressed:
            record.suppressed = self._suppressed
        self._suppressed = 0
        return True


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
