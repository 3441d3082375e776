"""An assembled gateway."""

from dataclasses import dataclass

from flask import Flask

from gateway.background.opener import Opener
from gateway.background.reaper import Reaper
from gateway.background.reconciler import Reconciler
from gateway.services.disk_use import DiskUse
from gateway.services.gauges import Gauges
from gateway.services.idle import Idle
from gateway.services.leases import Leases
from gateway.services.login_notices import LoginNotices
from gateway.services.queue import Queue
from gateway.services.sessions import Sessions
from gateway.services.warnings import Warnings
from gateway.services.webhooks import Webhooks


@dataclass(frozen=True)
class Gateway:
    """An assembled gateway: its services, its background work and the Flask application over them."""

    flask: Flask
    sessions: Sessions
    leases: Leases
    queue: Queue
    opener: Opener
    login_notices: LoginNotices
    warnings: Warnings
    reconciler: Reconciler
    disk_use: DiskUse
    gauges: Gauges
    webhooks: Webhooks
    idle: Idle
    reaper: Reaper

    @classmethod
    def of(cls, app: Flask) -> "Gateway":
        """Return the gateway of an application that `create_app` has made."""
        gateway: Gateway = app.extensions["gateway"]
        return gateway
