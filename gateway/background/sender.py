"""The thread that sends webhooks. A receiver that is slow delays only its own events."""

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from gateway.domain.audit import REAPER, acting, actor
from gateway.errors import GatewayError
from gateway.services.webhooks import Target, Webhooks

log = logging.getLogger(__name__)

_ROUND_SECONDS = 1.0
_WORKERS = 8


@dataclass
class Sender:
    webhooks: Webhooks
    _busy: set[str] = field(default_factory=set, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Run a thread that sends what is due each second until the end of the block."""
        over = threading.Event()
        threading.Thread(target=self._run, args=(over,), name="sender", daemon=True).start()
        try:
            yield
        finally:
            over.set()

    def round(self, pool: ThreadPoolExecutor, over: threading.Event) -> None:
        """Send what is due to each webhook, except to those whose last round still runs."""
        for target in self.webhooks.due():
            name = target[0].name
            with self._lock:
                if name in self._busy:
                    continue
                self._busy.add(name)
            pool.submit(self._send, target, over)

    def _run(self, over: threading.Event) -> None:
        with acting(REAPER), ThreadPoolExecutor(_WORKERS, "webhook", actor.set, (REAPER,)) as pool:
            while not over.is_set():
                try:
                    self.round(pool, over)
                except GatewayError as error:
                    log.warning("webhooks are late", extra={"error": str(error)})
                except Exception:  # noqa: BLE001
                    log.exception("internal error in the sender; it continues")
                over.wait(_ROUND_SECONDS)

    def _send(self, target: Target, over: threading.Event) -> None:
        try:
            self.webhooks.send(target, lambda: not over.is_set())
        except GatewayError as error:
            log.warning("a webhook is tried again", extra={"webhook": target[0].name, "error": str(error)})
        except Exception:  # noqa: BLE001
            log.exception("internal error in a webhook", extra={"webhook": target[0].name})
        finally:
            with self._lock:
                self._busy.discard(target[0].name)
