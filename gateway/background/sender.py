"""The thread that sends webhooks. A receiver that is slow delays only its own events."""

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from gateway.background.rounds import Jobs, rounds
from gateway.errors import GatewayError
from gateway.services.webhooks import Target, Webhooks

log = logging.getLogger(__name__)

_ROUND_SECONDS = 1.0
_WORKERS = 8


@dataclass
class Sender:
    webhooks: Webhooks
    _jobs: Jobs = field(default_factory=Jobs, init=False)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Run a thread that sends what is due each second until the end of the block."""
        with rounds("sender", _WORKERS, self.round, lambda: _ROUND_SECONDS, "webhooks are late"):
            yield

    def round(self, pool: ThreadPoolExecutor, over: threading.Event) -> None:
        """Send what is due to each webhook, except to those whose last round still runs."""
        for target in self.webhooks.due():
            self._jobs.start(pool, target[0].name, partial(self._send, target, over))

    def _send(self, target: Target, over: threading.Event) -> None:
        try:
            self.webhooks.send(target, lambda: not over.is_set())
        except GatewayError as error:
            log.warning("a webhook is tried again", extra={"webhook": target[0].name, "error": str(error)})
