"""Identifies callers from inside a session: the uid of a process is one user's for ever."""

from dataclasses import dataclass

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
