"""The public keys stored for a user, and those of a live session.

Stored keys open each session that brings none of its own, and a live one that they opened follows them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.domain import ssh_keys
from gateway.domain.audit import Action
from gateway.domain.clock import Clock
from gateway.domain.models import Event, KeysFrom
from gateway.services.ports import Database
from gateway.services.routing import Routing


@dataclass(frozen=True)
class UserKeys:
    database: Database
    routing: Routing
    clock: Clock

    def get(self, user_id: str) -> Sequence[str]:
        """Empty for somebody who never stored one."""
        with self.database.read() as rows:
            return rows.public_keys(user_id)

    def replace(self, user_id: str, lines: Sequence[str]) -> Sequence[str]:
        """Store exactly these keys; none at all is fine. Raises `InvalidRequest`.

        A live session that stored keys opened has them when this returns, and whoever a withdrawn one let in
        is out. Raises what keeps that from being done; the reaper then does it.
        """
        parsed = list(ssh_keys.parse_public_keys(lines)) if lines else []
        with self.database.begin() as rows:
            rows.user(user_id).public_keys = parsed
            rows.record(
                Event.of(self.clock().wall, Action.KEYS_CHANGED, f"{len(parsed)} stored", user_id=user_id)
            )
            session = rows.of_user(user_id)
            follows = session is not None and session.keys_from == KeysFrom.STORED
            if session and follows:
                session.admit(parsed, KeysFrom.STORED)
        if session and follows:
            self.routing.enforce(session.id)
        return parsed

    def replace_in_session(self, session_id: str, lines: Sequence[str]) -> Sequence[str]:
        """Let exactly these keys into a live session, wherever its keys came from; with none, nobody. From
        then on it no longer follows the stored ones. Raises as `replace` and `Sessions.get` do."""
        parsed = list(ssh_keys.parse_public_keys(lines)) if lines else []
        with self.database.begin() as rows:
            session = rows.live(session_id)
            session.admit(parsed, KeysFrom.GIVEN)
            told = f"{len(parsed)} for this session"
            rows.record(Event.of(self.clock().wall, Action.KEYS_CHANGED, told, session=session))
        self.routing.enforce(session_id)
        return parsed
