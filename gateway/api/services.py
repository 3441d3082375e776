"""The services that the views of one application use."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from flask import Flask, current_app

from gateway.api.entry_point import EntryPoint
from gateway.services.events import AuditLog
from gateway.services.gpus import GpuInventory
from gateway.services.idle import Idle
from gateway.services.images import Images
from gateway.services.leases import Leases
from gateway.services.messages import Messages
from gateway.services.metrics import Metrics
from gateway.services.policies import Policies
from gateway.services.queue import Queue
from gateway.services.readiness import Readiness
from gateway.services.sessions import Sessions
from gateway.services.sign_ins import SignIns
from gateway.services.ssh_keys import UserKeys
from gateway.services.usage import UsageReport
from gateway.services.users import Users
from gateway.services.webhooks import Webhooks

_NAME = "gateway.api"  # in `Flask.extensions`


@dataclass(frozen=True)
class ApiServices:
    """`public_url` is the address at which clients find the API."""

    sessions: Sessions
    leases: Leases
    queue: Queue
    messages: Messages
    user_keys: UserKeys
    users: Users
    usage: UsageReport
    webhooks: Webhooks
    policies: Policies
    images: Images
    idle: Idle
    gpus: GpuInventory
    audit_log: AuditLog
    metrics: Metrics
    sign_ins: SignIns
    readiness: Readiness
    entry_point: EntryPoint
    max_ttl_minutes: int
    public_url: str

    @property
    def public_origin(self) -> str:
        """`public_url` without its path, such as https://gw.example.org; empty without one."""
        public = urlsplit(self.public_url)
        return f"{public.scheme}://{public.netloc}" if public.netloc else ""

    def install(self, app: Flask) -> None:
        """Make these the services of the views of `app`."""
        app.extensions[_NAME] = self


def services() -> ApiServices:
    """Return the services of the application that handles this request."""
    installed: ApiServices = current_app.extensions[_NAME]
    return installed
