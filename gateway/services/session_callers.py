"""Identifies callers from inside a session: by the uid of their process, which is one user's for ever, or by
the token of the session."""

from dataclasses import dataclass

from gateway.domain import session_token
from gateway.domain.audit import in_session
from gateway.domain.permissions import Caller, Role
from gateway.services.ports import Database


@dataclass(frozen=True)
class SessionCallers:
    database: Database

    def identify(self, uid: int) -> Caller | None:
        """Return the user with this uid as a caller; None if no user has it."""
        with self.database.read() as rows:
            user_id = rows.user_of(uid)
        return None if user_id is None else Caller(in_session(user_id), Role.SESSION, user_id)

    def identify_token(self, token: str) -> Caller | None:
        """Return the user of the live session with this token; None if there is none."""
        with self.database.read() as rows:
            session = rows.get(session_token.session_of(token))
        if session is None or not session_token.is_valid(token, session.id, session.private_key):
            return None
        return Caller(in_session(session.user_id), Role.SESSION, session.user_id)
