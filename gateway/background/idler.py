"""The thread that looks for idle sessions. Sessions that do not answer delay others, but end none."""

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from gateway.background.rounds import Jobs, rounds
from gateway.domain.models import Session
from gateway.errors import GatewayError
from gateway.services.idle import Idle

log = logging.getLogger(__name__)

_ROUND_SECONDS = 10.0
_WORKERS = 4


@dataclass
class Idler:
    idle: Idle
    _jobs: Jobs = field(default_factory=Jobs, init=False)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Run a thread that examines what is due until the end of the block."""
        failure = "idle sessions cannot be found"
        with rounds("idler", _WORKERS, self.round, lambda: _ROUND_SECONDS, failure):
            yield

    def round(self, pool: ThreadPoolExecutor, _over: threading.Event) -> None:
        """Examine every session that is due, except those whose last examination still runs."""
        for session in self.idle.due():
            self._jobs.start(pool, session.id, partial(self._examine, session))

    def _examine(self, session: Session) -> None:
        try:
            self.idle.examine(session)
        except GatewayError as error:
            log.warning("a session is examined again", extra={**session.named, "error": str(error)})
