"""The implementations of the ports that a gateway is assembled from."""

from dataclasses import dataclass, field

from gateway.domain import clock
from gateway.domain.clock import Clock
from gateway.repositories.receivers import HttpReceivers
from gateway.services.ports import Database, Host, NoticeFiles, Pipes, Receivers, RouterReports


@dataclass(frozen=True)
class Parts:
    """The implementations of the ports. Tests replace those that need a real machine by fakes."""

    database: Database
    host: Host
    pipes: Pipes
    notices: NoticeFiles
    clock: Clock = clock.read
    receivers: Receivers = field(default_factory=HttpReceivers)
    reports: RouterReports | None = None
