"""Asks the sessions, one after another, whether they still reach their GPUs.

A session also says which MIG device it has, if the database does not know it, as after `gateway recover`.
"""

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
            active = [each for each in rows.live_sessions() if each.status == Status.ACTIVE]
        self._asked = {  # a new session was asked as it opened
            each.id: self._asked.get(each.id, now if each.gpu_uuid else now - _EVERY) for each in active
        }
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
            device = self.host.look_inside(session)
            if device and session.gpu_uuid is None:
                with self.database.begin() as rows:
                    if row := rows.get(session_id):
                        row.gpu_uuid = device
        except GatewayError as error:
            log.info(
                "a session did not say whether it has its GPU", extra={**session.named, "error": str(error)}
            )
