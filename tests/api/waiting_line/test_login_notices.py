"""What users who wait read at a login."""

import re
from typing import Any

from sqlalchemy import event

from gateway.domain.notice import NoticeState
from tests.api.waiting_line.conftest import serve, waiting
from tests.conftest import Bench


def test_a_login_reads_the_place_in_line_and_then_that_the_session_opens(full: Bench) -> None:
    waiting(full, "ben")
    cem = waiting(full, "cem")
    notice = full.notices.get("cem")
    assert notice
    assert notice.state is NoticeState.WAITING
    [text] = notice.read_at(full.clock.now)
    assert "You are 2nd in line: yours by " in text
    assert re.search(r"\(2 h [23] min\) at the latest", text)  # a whole minute, by when the clock is read
    assert notice.session_id == cem["session_id"]
    full.clock.advance(minutes=60)
    serve(full)
    notice = full.notices.get("ben")
    assert notice
    assert notice.state is NoticeState.OPEN
    [text] = notice.read_at(full.clock.now)
    assert text.startswith("Your session is ready: 7g.40gb until ")
    assert text.endswith(" (1 hour).")
    full.clock.advance(minutes=1)
    full.reconciler.reconcile()
    assert full.notices.get("ben") is None
    full.gateway.login_notices.settle_line()
    notice = full.notices.get("cem")
    assert notice
    assert "You are 1st in line" in notice.text


def test_the_notices_of_a_long_line_need_no_more_statements_than_those_of_a_short_one(full: Bench) -> None:
    statements: list[str] = []

    @event.listens_for(full.database.engine, "before_cursor_execute")
    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    def needed(users: list[str]) -> int:
        for user in users:
            waiting(full, user)
        full.gateway.login_notices.settle_line()  # writes what is not right yet
        statements.clear()
        full.gateway.login_notices.settle_line()
        return len(statements)

    assert needed(["ben"]) == needed(["cem", "dan", "eva"])
