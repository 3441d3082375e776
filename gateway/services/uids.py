"""Finds the uids that a new user may get."""

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.services.ports import Database, Host


@dataclass(frozen=True)
class Uids:
    database: Database
    host: Host

    def free_for(self, user_id: str) -> Sequence[int]:
        """Return the candidates for `Rows.user`; none for a user who has a uid. To list the accounts of the
        host may take long, so call this before the transaction that creates the user."""
        with self.database.read() as rows:
            if rows.has_user(user_id):
                return []
            assigned = rows.assigned_uids()
        return self.host.free_uids(user_id, assigned)
