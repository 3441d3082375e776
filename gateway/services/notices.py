"""Updates what sessions show their users from the database: the message of the day and the lease file."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from gateway.domain import disk
from gateway.domain.board import Board, board
from gateway.domain.lease import LeaseLimit
from gateway.domain.models import Session, Status
from gateway.domain.words import Words
from gateway.errors import GatewayError
from gateway.services.ports import Database, Host, Rows
from gateway.services.quota import WorkspaceQuota

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Notices:
    database: Database
    host: Host
    limit: LeaseLimit
    words: Words
    quota: WorkspaceQuota
    last_time_for: timedelta  # how long the reason of the last end is shown

    def show(self, session_id: str) -> None:
        """Write the session's files from its present row. Raises `Unavailable`, `DiskFull`."""

        def wanted() -> Board | None:
            with self.database.read() as rows:
                session = rows.get(session_id)
                return self._board(rows, session) if session else None

        self.host.show(session_id, wanted)

    def attempt(self, session: Session) -> None:
        """As `show`. If it fails, `settle` writes the files later."""
        try:
            self.show(session.id)
        except GatewayError as error:
            failure = {**session.named, "error": str(error)}
            log.warning("the files of a session could not be updated and are tried again", extra=failure)

    def settle(self) -> None:
        """Write the files of all sessions whose files differ from the database."""
        with self.database.read() as rows:
            active = [session for session in rows.list() if session.status == Status.ACTIVE]
            boards = [(session, self._board(rows, session)) for session in active]
        for session, expected in boards:
            if not self.host.shows(session.id, expected):
                self.attempt(session)

    def _board(self, rows: Rows, session: Session) -> Board:
        return board(session, self.limit, self.words, self._notices(rows, session))

    def _notices(self, rows: Rows, session: Session) -> Mapping[str, str]:
        """Every notice that holds now, by its label."""
        lines = {
            "Last time": self._last_time(rows, session),
            "Warning": self._disk_warning(rows, session.user_id),
            "Ends soon": self.words.ending(session.expires_at) if session.is_warned else None,
            "Message": session.message,
        }
        return {label: text for label, text in lines.items() if text}

    def _last_time(self, rows: Rows, session: Session) -> str | None:
        last = rows.last_ended(session.user_id)
        if last is None or last.ended_at < session.created_at - self.last_time_for:
            return None
        return self.words.last_time(last)

    def _disk_warning(self, rows: Rows, user_id: str) -> str | None:
        quota = self.quota.watched()
        return None if quota is None else disk.warning(rows.user(user_id).workspace_bytes or 0, quota)
