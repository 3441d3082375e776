"""Updates what sessions show their users from the database: the message of the day and the lease file."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from gateway.domain.board import Board
from gateway.domain.lease import LeaseLimit
from gateway.domain.leased import SessionColumns
from gateway.domain.live_session import LiveSession
from gateway.domain.models import EndedSession, Session
from gateway.domain.session_board import session_board
from gateway.domain.session_texts import notice_labels
from gateway.domain.states import Status
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

        quota = self.quota.watched()

        def wanted() -> Board | None:
            with self.database.read() as rows:
                session = rows.get(session_id)
                return self.board_of(rows, session, quota) if session else None

        self.host.show(session_id, wanted)

    def board_of(self, rows: Rows, session: Session, quota: int | None) -> Board:
        """Return what the session shows now. `quota` is the one that the gateway watches. The file system
        decides that, so ask before a transaction begins."""
        size = rows.user(session.user_id).workspace_bytes
        return self._board(session, rows.last_ended(session.user_id), size, quota)

    def attempt(self, session: SessionColumns) -> None:
        """As `show`. If it fails, `settle` writes the files later."""
        try:
            self.show(session.id)
        except GatewayError as error:
            failure = {**session.named, "error": str(error)}
            log.warning("the files of a session could not be updated and are tried again", extra=failure)

    def settle(self) -> None:
        """Write the files of all sessions whose files differ from the database."""
        quota = self.quota.watched()
        with self.database.read() as rows:
            boards = self._boards(rows, quota)
        differing = self.host.differing({session.id: expected for session, expected in boards})
        for session, _ in boards:
            if session.id in differing:
                self.attempt(session)

    def _boards(self, rows: Rows, quota: int | None) -> Sequence[tuple[LiveSession, Board]]:
        """What every active session shows. A query for each would take longer than all else."""
        active = [session for session in rows.live_sessions() if session.status == Status.ACTIVE]
        if not active:
            return []
        last = rows.last_ends(min(each.created_at for each in active) - self.last_time_for)
        sizes = dict(rows.workspace_sizes())
        return [
            (each, self._board(each, last.get(each.user_id), sizes.get(each.user_id), quota))
            for each in active
        ]

    def _board(
        self,
        session: SessionColumns,
        last: EndedSession | None,
        workspace_bytes: int | None,
        quota: int | None,
    ) -> Board:
        notices = self._notices(session, last, workspace_bytes, quota)
        return session_board(session, self.limit, self.words, notices)

    def _notices(
        self,
        session: SessionColumns,
        last: EndedSession | None,
        workspace_bytes: int | None,
        quota: int | None,
    ) -> Mapping[str, str]:
        """Every notice that holds now, by its label in the language of the users."""
        lines = {
            "Last time": self._last_time(session, last),
            "Warning": None if quota is None else self.words.disk(workspace_bytes or 0, quota),
            "Ends soon": self.words.ending(session.expires_at) if session.is_warned else None,
            "Message": session.message,
        }
        labels = notice_labels(self.words.language)
        return {labels[label]: text for label, text in lines.items() if text}

    def _last_time(self, session: SessionColumns, last: EndedSession | None) -> str | None:
        if last is None or last.ended_at < session.created_at - self.last_time_for:
            return None
        return self.words.last_time(last)
