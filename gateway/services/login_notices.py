"""Keeps the notices for users who log in without a session: their place in line, or for some days why their
last session ended."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from gateway.domain.clock import Clock
from gateway.domain.models import EndedSession, Session
from gateway.domain.notice import Notice, NoticeState
from gateway.domain.states import KeysFrom, Status
from gateway.domain.waiting_request import WaitingRequest
from gateway.domain.words import Words, next_minute
from gateway.errors import GatewayError
from gateway.services.line import positions
from gateway.services.ports import Database, NoticeFiles, Rows

log = logging.getLogger(__name__)

_JUST_OPENED = timedelta(minutes=1)


@dataclass(frozen=True)
class LoginNotices:
    """The notices follow the rows. `kept_for` is how long a notice stays after the end of a session."""

    database: Database
    files: NoticeFiles
    words: Words
    kept_for: timedelta
    clock: Clock

    def publish(self, user_id: str) -> None:
        """Write or remove the user's notice, as the rows are now. Raises `GatewayError`."""

        def wanted() -> Notice | None:
            with self.database.read() as rows:
                last, keys = rows.last_ended(user_id), rows.public_keys(user_id)
                live, now = rows.of_user(user_id), self.clock().wall
                status = live.status if live else None
                if live and live.status == Status.ACTIVE:
                    return self._opened(live, keys, now)
                if waiting := rows.waiting_of_user(user_id):
                    places = {} if rows.get(waiting.id) else {waiting.id: rows.place(waiting)}
                    return self._of_waiting(waiting, places, status, keys, now)
                if live and live.status == Status.CLOSING:
                    return self._of(live.ended(now), keys)
                return self._of_last(status, last, keys, now)

        self.files.update(user_id, wanted)

    def attempt(self, user_id: str) -> None:
        """As `publish`. If it fails, `settle` writes the notice later."""
        try:
            self.publish(user_id)
        except GatewayError as error:
            failure = {"user_id": user_id, "error": str(error)}
            log.warning("the notice of a user could not be written and is tried again", extra=failure)

    def settle_line(self) -> None:
        """Make the notices of those who wait agree with the rows."""
        with self.database.read() as rows:
            expected = self._of_line(rows, self.clock().wall)
        for user_id, notice in sorted(expected.items()):
            if self.files.get(user_id) != notice:
                self.attempt(user_id)

    def settle(self) -> None:
        """Make every notice agree with the rows."""
        with self.database.read() as rows:
            expected = self._expected(rows)
        existing = self.files.all()
        for user_id in sorted(expected.keys() | existing.keys()):
            notice = expected.get(user_id)
            if (existing.get(user_id) != notice) if notice else user_id in existing:
                self.attempt(user_id)

    def _expected(self, rows: Rows) -> Mapping[str, Notice | None]:
        now = self.clock().wall
        last_ends, closing = rows.last_ends(now - self.kept_for), rows.closing()
        keys = rows.stored_keys([*last_ends, *(session.user_id for session in closing)])
        statuses = {user_id: status for _, user_id, status, _ in rows.statuses()}
        expected = {
            user_id: self._of_last(statuses.get(user_id), last, keys.get(user_id, ()), now)
            for user_id, last in last_ends.items()
        }
        for session in closing:
            expected[session.user_id] = self._of(session.ended(now), keys.get(session.user_id, ()))
        return {**expected, **self._of_line(rows, now)}

    def _of_line(self, rows: Rows, now: datetime) -> Mapping[str, Notice | None]:
        line = rows.line()
        opening = [each for session in rows.opened_from_line() if (each := rows.waiting(session.id))]
        places, keys = positions(line), rows.stored_keys([each.user_id for each in (*line, *opening)])
        statuses = {user_id: status for _, user_id, status, _ in rows.statuses()}
        return {
            each.user_id: self._of_waiting(
                each, places, statuses.get(each.user_id), keys.get(each.user_id, ()), now
            )
            for each in (*line, *opening)
        }

    def _of_waiting(
        self,
        request: WaitingRequest,
        places: Mapping[str, int],
        status: str | None,
        stored_keys: Sequence[str],
        now: datetime,
    ) -> Notice | None:
        """`status` is that of the user's live session."""
        keys = tuple(dict.fromkeys([*request.public_keys, *stored_keys]))
        if not keys or status == Status.ACTIVE:
            return None
        if request.id not in places:
            return Notice(request.id, NoticeState.READY, keys, self.words.opening(request.mig_profile))
        by = request.starts_at
        text = self.words.waiting(request.mig_profile, places[request.id], by, now)
        until = next_minute(by) if by else None
        return Notice(request.id, NoticeState.WAITING, keys, text, until, self.words.language)

    def _of_last(
        self, status: str | None, last: EndedSession | None, stored_keys: Sequence[str], now: datetime
    ) -> Notice | None:
        """While a session opens, the notice of the one before it stays. A session that closes has ended for
        its user: its own notice replaces this one."""
        if status == Status.ACTIVE or last is None or last.ended_at < now - self.kept_for:
            return None
        return self._of(last, stored_keys)

    def _opened(self, session: Session, stored_keys: Sequence[str], now: datetime) -> Notice | None:
        """For the logins that waited for the session; the next `settle` after a minute removes it."""
        keys = tuple(stored_keys if session.keys_from == KeysFrom.STORED else session.public_keys)
        is_new = session.opened_at is not None and now < session.opened_at + _JUST_OPENED
        if not keys or not session.is_unclaimed or not is_new:
            return None
        ends = session.expires_at
        text = self.words.ready(session.mig_profile, ends, now)
        return Notice(session.id, NoticeState.OPEN, keys, text, ends, self.words.language)

    def _of(self, ended: EndedSession, stored_keys: Sequence[str]) -> Notice | None:
        """Stored keys prove who asks if they are stored now; None without any key."""
        keys = tuple(dict.fromkeys([*ended.public_keys, *stored_keys]))
        if not keys or not self.kept_for:
            return None
        return Notice(ended.id, NoticeState.ENDED, keys, self.words.ended(ended))
