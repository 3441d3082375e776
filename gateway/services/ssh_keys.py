"""Changes the public keys stored for a user, and the keys of a live session.

A session whose request has no keys uses the stored keys. While it is live, its keys follow them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.domain import ssh_keys
from gateway.domain.audit import Action
from gateway.domain.clock import Clock
from gateway.domain.models import Event
from gateway.domain.states import KeysFrom
from gateway.services.login_notices import LoginNotices
from gateway.services.ports import Database
from gateway.services.routing import Routing
from gateway.services.uids import Uids


@dataclass(frozen=True)
class UserKeys:
    database: Database
    routing: Routing
    uids: Uids
    login_notices: LoginNotices
    clock: Clock

    def get(self, user_id: str) -> Sequence[str]:
        """Return the stored keys; empty if the user has none."""
        with self.database.read() as rows:
            return rows.public_keys(user_id)

    def replace(self, user_id: str, lines: Sequence[str]) -> Sequence[str]:
        """Store exactly these keys, or none. Raises `InvalidRequest`.

        A live session that uses the stored keys has the new keys when this returns, and its connections are
        closed if a key was withdrawn. If no key changes, no event is recorded.
        """
        parsed = list(ssh_keys.parse_public_keys(lines)) if lines else []
        free_uids = self.uids.free_for(user_id)
        with self.database.begin() as rows:
            user, session = rows.user(user_id, free_uids), rows.of_user(user_id)
            follower = session if session and session.keys_from == KeysFrom.STORED else None
            if user.public_keys == parsed and (follower is None or follower.public_keys == parsed):
                return parsed
            user.public_keys = parsed
            detail = f"{len(parsed)} stored"
            rows.record(Event.of(self.clock().wall, Action.KEYS_CHANGED, detail, user_id=user_id))
            if follower:
                follower.admit(parsed, KeysFrom.STORED)
        if follower:
            self.routing.enforce(follower.id)
        else:
            self.login_notices.attempt(user_id)
        return parsed

    def replace_in_session(self, session_id: str, lines: Sequence[str]) -> Sequence[str]:
        """Accept exactly these keys in a live session. Without a key, all logins fail.

        From then on the session no longer uses the stored keys. Raises as `replace` and `Sessions.get` do.
        """
        parsed = list(ssh_keys.parse_public_keys(lines)) if lines else []
        with self.database.begin() as rows:
            session = rows.live(session_id)
            if session.public_keys == parsed and session.keys_from == KeysFrom.GIVEN:
                return parsed
            session.admit(parsed, KeysFrom.GIVEN)
            detail = f"{len(parsed)} for this session"
            rows.record(Event.of(self.clock().wall, Action.KEYS_CHANGED, detail, session=session))
        self.routing.enforce(session_id)
        return parsed
