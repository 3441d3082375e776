"""The public keys stored for a user: they open each later session that brings none of its own."""

from collections.abc import Callable, Sequence
from datetime import datetime

from gateway import keys
from gateway.audit import What
from gateway.models import Event
from gateway.ports import Database


class UserKeys:
    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock

    def get(self, user_id: str) -> Sequence[str]:
        """Empty for somebody who never stored one."""
        with self._database.read() as rows:
            return rows.public_keys(user_id)

    def replace(self, user_id: str, lines: Sequence[str]) -> Sequence[str]:
        """Store exactly these keys; none at all is fine. Raises `InvalidRequest`."""
        parsed = list(keys.parse_public_keys(lines)) if lines else []
        with self._database.begin() as rows:
            rows.user(user_id).public_keys = parsed
            rows.tell(Event.of(self._clock(), What.KEYS_CHANGED, f"{len(parsed)} stored", user_id=user_id))
        return parsed
