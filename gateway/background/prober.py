"""Asks the sessions, one after another, whether they still reach their GPUs."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from gateway.domain.clock import Clock
from gateway.domain.states import Status
from gateway.errors import GatewayError
from gateway.services.ports import Database, Host

log = logging.getLogger(__name__)

_EVERY = timedelta(minutes=30)  # for each session


@dataclass
class Prober:
    database: Database
    host: Host
    clock: Clock
    _asked: dict[str, timedelta] = field(default_factory=dict, init=False)  # the uptime, by session

    def ask(self, go_on: Callable[[], bool] = lambda: True) -> None:
        """Ask every session that was not asked for half an hour, while `go_on` returns True."""
        now = self.clock().uptime
        with self.database.read() as rows:
            active = [each.id for each in rows.live_sessions() if each.status == Status.ACTIVE]
        self._asked = {id: self._asked.get(id, now) for id in active}  # a new session was asked as it opened
        for session_id, at in list(self._asked.items()):
            if not go_on():
                return
            if now - at >= _EVERY:
                self._asked[session_id] = now
                self._ask(session_id)

    def _ask(self, session_id: str) -> None:
        with self.database.read() as rows:
            session = rows.get(session_id)
        if session is None:
            return
        try:
            self.host.look_inside(session)
        except GatewayError as error:
            log.info(
                "a session did not say whether it has its GPU", extra={**session.named, "error": str(error)}
            )
