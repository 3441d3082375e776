"""The thread that takes the router's reports of SSH logins into the audit log."""

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from gateway.domain.models import Event
from gateway.errors import GatewayError
from gateway.services.ports import ReceiveReports, RouterReports
from gateway.services.ssh_logins import SshLogins

log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
_RETRY_SECONDS = 1.0
_END_SECONDS = 3.0


class LoginRecorder:
    """While the database does not answer, the thread takes no reports, and the router keeps them."""

    def __init__(self, reports: RouterReports | None, logins: SshLogins) -> None:
        self._reports = reports
        self._logins = logins
        self._over = threading.Event()

    @contextmanager
    def working(self) -> Iterator[None]:
        """Run the thread until the end of the block. Without reports there is nothing to do."""
        if self._reports is None:
            yield
            return
        self._over.clear()
        thread = threading.Thread(target=self._run, args=(self._reports,), name="logins", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join(_END_SECONDS)

    def _run(self, reports: RouterReports) -> None:
        failure = ""
        while not self._over.is_set():
            try:
                with reports.listening() as receive:
                    self._follow(receive)
            except GatewayError as error:
                if str(error) != failure:
                    log.warning("SSH logins are not recorded", extra={"error": str(error)})
                failure = str(error)
            except Exception:  # noqa: BLE001
                log.exception("internal error in the recorder of SSH logins; it continues")
            self._over.wait(_RETRY_SECONDS)

    def _follow(self, receive: ReceiveReports) -> None:
        while not self._over.is_set():
            datagram = receive(_POLL_SECONDS)
            if datagram and (events := self._logins.events(datagram)):
                self._record(events)

    def _record(self, events: Sequence[Event]) -> None:
        while not self._over.is_set():
            try:
                self._logins.record(events)
            except GatewayError as error:
                log.warning("SSH logins are recorded later", extra={"error": str(error)})
                self._over.wait(_RETRY_SECONDS)
            else:
                return
