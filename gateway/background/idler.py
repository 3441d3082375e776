"""The thread that looks for idle sessions. Sessions that do not answer delay others, but end none."""

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from gateway.domain.audit import REAPER, acting, actor
from gateway.domain.models import Session
from gateway.errors import GatewayError
from gateway.services.idle import Idle

log = logging.getLogger(__name__)

_ROUND_SECONDS = 10.0
_WORKERS = 4


@dataclass
class Idler:
    idle: Idle
    _busy: set[str] = field(default_factory=set, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Run a thread that examines what is due until the end of the block."""
        over = threading.Event()
        threading.Thread(target=self._run, args=(over,), name="idler", daemon=True).start()
        try:
            yield
        finally:
            over.set()

    def round(self, pool: ThreadPoolExecutor) -> None:
        """Examine every session that is due, except those whose last examination still runs."""
        for session in self.idle.due():
            with self._lock:
                if session.id in self._busy:
                    continue
                self._busy.add(session.id)
            pool.submit(self._examine, session)

    def _run(self, over: threading.Event) -> None:
        with acting(REAPER), ThreadPoolExecutor(_WORKERS, "idle", actor.set, (REAPER,)) as pool:
            while not over.is_set():
                try:
                    self.round(pool)
                except GatewayError as error:
                    log.warning("idle sessions cannot be found", extra={"error": str(error)})
                except Exception:  # noqa: BLE001
                    log.exception("internal error in the idler; it continues")
                over.wait(_ROUND_SECONDS)

    def _examine(self, session: Session) -> None:
        try:
            self.idle.examine(session)
        except GatewayError as error:
            log.warning("a session is examined again", extra={**session.named, "error": str(error)})
        except Exception:  # noqa: BLE001
            log.exception("internal error in the idler", extra=session.named)
        finally:
            with self._lock:
                self._busy.discard(session.id)
