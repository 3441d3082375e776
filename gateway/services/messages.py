"""An administrator's message to the user of a live session."""

import logging
from dataclasses import dataclass

from gateway.domain import words
from gateway.domain.audit import Action
from gateway.domain.clock import Clock
from gateway.domain.models import Event, Session
from gateway.errors import GatewayError
from gateway.services.notices import Notices
from gateway.services.ports import Database, Host

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Messages:
    database: Database
    host: Host
    notices: Notices
    clock: Clock

    def send(self, session_id: str, text: str) -> int:
        """Show `text` in the message of the day and on every terminal; return the number of terminals.

        An empty text removes the last message. If no terminal can be written to, the message of the day still
        has the text. Raises `SessionNotFound`, `SessionEnded`.
        """
        text = words.one_line(text)
        with self.database.begin() as rows:
            session = rows.live(session_id)
            session.message = text or None
        self.notices.attempt(session)
        terminals, detail = self._tell(session, text)
        with self.database.begin() as rows:
            rows.record(Event.of(self.clock().wall, Action.MESSAGE, detail, session=session))
        return terminals

    def _tell(self, session: Session, text: str) -> tuple[int, str]:
        """Return the number of terminals, and the detail for the audit log."""
        if not text:
            return 0, "taken away"
        try:
            terminals = self.host.tell(session, self.notices.words.message(text))
        except GatewayError as error:
            log.warning("a message reached no terminal", extra={**session.named, "error": str(error)})
            return 0, f"no terminal: {error}: {text}"
        return terminals, f"{words.terminals(terminals)}: {text}"
