import json
import logging
import sys
from typing import Any

import pytest

from gateway.domain import audit
from gateway.logs import Json, Text


def record(message: str, **extra: Any) -> logging.LogRecord:
    made = logging.LogRecord("gateway.services.sessions", logging.INFO, __file__, 1, message, (), None)
    made.created, made.msecs = 1737100800.25, 250
    vars(made).update(extra)
    return made


def test_an_event_is_one_line_of_fields() -> None:
    with audit.acting("ci"):
        line = Text().format(record("session opened", session_id="9d0a", user_id="user123", reason=None))
    assert line == (
        'time=2025-01-17T08:00:00.250Z level=info logger=gateway.services.sessions message="session opened" '
        "session_id=9d0a user_id=user123 actor=ci"
    )


def test_the_default_actor_is_not_shown() -> None:
    assert "actor" not in Text().format(record("stopped"))


@pytest.mark.parametrize("fact", ["a b", "", 'say "no"', "a=b", "two\nlines", "é", "\x1b[31m"])
def test_no_value_breaks_its_line_or_forges_a_field(fact: str) -> None:
    line = Text().format(record("denied", detail=fact))
    assert line.endswith(f" detail={json.dumps(fact)}")
    assert line.isprintable()


@pytest.mark.parametrize("form", [Text(), Json()])
def test_an_error_with_its_traceback_is_one_line(form: logging.Formatter) -> None:
    failed = record("an internal error")
    try:
        raise ValueError("no\nsuch thing")
    except ValueError:
        failed.exc_info = sys.exc_info()
    line = form.format(failed)
    assert "Traceback" in line
    assert "such thing" in line
    assert "\n" not in line


def test_json_has_the_same_fields() -> None:
    with audit.acting("reaper"):
        fields = json.loads(Json().format(record("session ended", session_id="9d0a", connections=3)))
    assert fields == {
        "time": "2025-01-17T08:00:00.250Z",
        "level": "info",
        "logger": "gateway.services.sessions",
        "message": "session ended",
        "session_id": "9d0a",
        "connections": 3,
        "actor": "reaper",
    }
