"""The HTTP API and the web pages over the services of a gateway."""

from urllib.parse import urlsplit

from gateway import __version__, dashboard
from gateway.api import (
    authorisation,
    browsers,
    errors,
    events,
    gpus,
    health,
    images,
    in_session,
    metrics,
    openapi,
    policies,
    public_path,
    queue,
    usage,
    users,
    webhooks,
)
from gateway.api import sessions as sessions_api
from gateway.api.entry_point import EntryPoint
from gateway.api.services import ApiServices
from gateway.app.gateway import Gateway
from gateway.app.parts import Parts
from gateway.domain.words import Words
from gateway.services.events import AuditLog
from gateway.services.messages import Messages
from gateway.services.metrics import Metrics
from gateway.services.readiness import Readiness
from gateway.services.routing import Routing
from gateway.services.session_callers import SessionCallers
from gateway.services.sign_ins import SignIns
from gateway.services.ssh_keys import UserKeys
from gateway.services.tokens import Tokens
from gateway.services.uids import Uids
from gateway.services.usage import UsageReport
from gateway.services.users import Users
from gateway.settings import Settings


def serve(gateway: Gateway, settings: Settings, parts: Parts, routing: Routing) -> None:
    """Register the blueprints and the services that their views use."""
    app, database, clock = gateway.flask, parts.database, parts.clock
    audit_log, uids = AuditLog(database, clock), Uids(database, parts.host)
    tokens = Tokens(database, clock)
    sign_ins = SignIns(database, tokens, clock)
    ApiServices(
        gateway.sessions,
        gateway.leases,
        gateway.queue,
        messages=Messages(database, parts.host, gateway.disk_use.notices, clock),
        user_keys=UserKeys(database, routing, uids, gateway.login_notices, clock),
        users=Users(database, uids, gateway.leases.policies, clock),
        usage=UsageReport(database, clock, settings.timezone),
        webhooks=gateway.webhooks,
        policies=gateway.leases.policies,
        images=gateway.sessions.images,
        idle=gateway.idle,
        gpus=gateway.gauges.gpus,
        audit_log=audit_log,
        metrics=Metrics(database, clock, __version__, settings.metrics_users, gateway.reaper.last_tick),
        sign_ins=sign_ins,
        readiness=Readiness(gateway.gauges.checks, clock),
        entry_point=EntryPoint(settings.ssh_host, settings.ssh_port, settings.entry_host_keys),
        max_ttl_minutes=settings.max_ttl_minutes,
        public_url=settings.public_url,
    ).install(app)
    public = urlsplit(settings.public_url)
    browsers.register(app, settings.api_hosts, public.netloc, clock)
    blueprints = (
        sessions_api,
        users,
        usage,
        gpus,
        events,
        policies,
        images,
        webhooks,
        health,
        metrics,
        queue,
    )
    for module in blueprints:
        app.register_blueprint(module.routes)
    authorisation.register(app, tokens, sign_ins, SessionCallers(database), audit_log, clock)
    in_session.register(app, gateway.login_notices.words, clock)
    errors.register(app)
    openapi.install(app)
    dashboard.install(app, Words(settings.timezone))
    if public.path:
        public_path.install(app, public.path)
