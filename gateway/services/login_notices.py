"""Keeps the notices for users who log in without a session: why their last session ended, for some days."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from gateway.domain.clock import Clock
from gateway.domain.models import EndedSession, Session, Status
from gateway.domain.notice import Notice, NoticeState
from gateway.domain.words import Words
from gateway.errors import GatewayError
from gateway.services.ports import Database, NoticeFiles, Rows

log = logging.getLogger(__name__)


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
                return self._notice(rows.of_user(user_id), last, keys, self.clock().wall)

        self.files.update(user_id, wanted)

    def attempt(self, user_id: str) -> None:
        """As `publish`. If it fails, `settle` writes the notice later."""
        try:
            self.publish(user_id)
        except GatewayError as error:
            failure = {"user_id": user_id, "error": str(error)}
            log.warning("the notice of a user could not be written and is tried again", extra=failure)

    def settle(self) -> None:
        """Make every notice agree with the rows."""
        with self.database.read() as rows:
            expected = self._expected(rows)
        existing = set(self.files.users())
        for user_id in sorted(expected.keys() | existing):
            notice = expected.get(user_id)
            if (self.files.get(user_id) != notice) if notice else user_id in existing:
                self.attempt(user_id)

    def _expected(self, rows: Rows) -> Mapping[str, Notice | None]:
        now = self.clock().wall
        live = {session.user_id: session for session in rows.list()}
        last, keys = rows.last_ends(now - self.kept_for), rows.stored_keys()
        return {
            user_id: self._notice(live.get(user_id), last.get(user_id), keys.get(user_id, ()), now)
            for user_id in live.keys() | last.keys()
        }

    def _notice(
        self, live: Session | None, last: EndedSession | None, stored_keys: Sequence[str], now: datetime
    ) -> Notice | None:
        """A session that closes has ended for its user. While a session opens, the notice of the one before
        it stays."""
        if live and live.status == Status.CLOSING:
            return self._of(live.ended(now), stored_keys)
        if (live and live.status == Status.ACTIVE) or last is None or last.ended_at < now - self.kept_for:
            return None
        return self._of(last, stored_keys)

    def _of(self, ended: EndedSession, stored_keys: Sequence[str]) -> Notice | None:
        """Stored keys prove who asks if they are stored now; None without any key."""
        keys = tuple(dict.fromkeys([*ended.public_keys, *stored_keys]))
        if not keys or not self.kept_for:
            return None
        return Notice(ended.id, NoticeState.ENDED, keys, self.words.ended(ended))
