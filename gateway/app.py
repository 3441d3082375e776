"""Builds the Flask application from the settings: connects services and repositories."""

import ipaddress
import logging
import os
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from flask import Flask

from gateway import __version__, dashboard, failpoints, simulation
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
    queue,
    usage,
    users,
    webhooks,
)
from gateway.api import sessions as sessions_api
from gateway.api.entry_point import EntryPoint
from gateway.api.requests import LARGEST_BODY, PathNumber, PathText
from gateway.api.services import ApiServices
from gateway.background.idler import Idler
from gateway.background.login_recorder import LoginRecorder
from gateway.background.opener import Opener
from gateway.background.reaper import Reaper
from gateway.background.reconciler import Reconciler
from gateway.background.sender import Sender
from gateway.background.warner import Warner
from gateway.background.watch import Watch
from gateway.domain import addresses, clock
from gateway.domain.activity import IdlePolicy
from gateway.domain.clock import Clock
from gateway.domain.lease import LeaseLimit
from gateway.domain.mig import MigPolicy
from gateway.domain.warnings import WarningPlan
from gateway.domain.words import Words
from gateway.errors import DockerUnavailable, NetworkUnavailable, StartRefused
from gateway.repositories.dcgm import DcgmExporter
from gateway.repositories.disk import NO_DISK, disk_of
from gateway.repositories.docker.client import Docker
from gateway.repositories.docker.containers import DockerContainers
from gateway.repositories.docker.egress import Egress
from gateway.repositories.docker.limits import Limits
from gateway.repositories.docker.network import Worknet
from gateway.repositories.files.lobby import Lobby, LobbyNotices
from gateway.repositories.files.login_socket import LoginSocket
from gateway.repositories.files.notices import NoticeFiles as NoticesOnDisk
from gateway.repositories.files.pipes import Pipes as PipesOnDisk
from gateway.repositories.files.session_contents import EgressProxy
from gateway.repositories.files.session_files import HostSessionFiles
from gateway.repositories.files.workspaces import HostWorkspaces
from gateway.repositories.host import LocalHost
from gateway.repositories.nvml.gpus import Gpus
from gateway.repositories.nvml.time_limit import TimeLimitedGpus
from gateway.repositories.receivers import HttpReceivers
from gateway.repositories.sql import owner
from gateway.repositories.sql.database import SqlDatabase
from gateway.repositories.sql.leadership import DatabaseLeadership, FileLeadership
from gateway.services import readiness
from gateway.services.closing import Closing
from gateway.services.disk_use import DiskUse
from gateway.services.events import AuditLog
from gateway.services.gauges import Gauges
from gateway.services.gpus import GpuInventory
from gateway.services.idle import Idle
from gateway.services.images import Images
from gateway.services.leases import Leases
from gateway.services.login_notices import LoginNotices
from gateway.services.messages import Messages
from gateway.services.metrics import Metrics
from gateway.services.notices import Notices
from gateway.services.policies import Policies
from gateway.services.ports import Database, Host, Leadership, NoticeFiles, Pipes, Receivers, RouterReports
from gateway.services.queue import Queue
from gateway.services.quota import WorkspaceQuota
from gateway.services.readiness import Readiness
from gateway.services.recovery import Recovery
from gateway.services.routing import Routing
from gateway.services.session_callers import SessionCallers
from gateway.services.sessions import Sessions
from gateway.services.sign_ins import SignIns
from gateway.services.ssh_keys import UserKeys
from gateway.services.ssh_logins import SshLogins
from gateway.services.tokens import Tokens
from gateway.services.uids import Uids
from gateway.services.usage import UsageLog, UsageReport
from gateway.services.users import Users
from gateway.services.warnings import Warnings
from gateway.services.webhooks import Webhooks
from gateway.settings import Settings

log = logging.getLogger(__name__)


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


def require_own_database(settings: Settings) -> None:
    """Raises `StartRefused` when the database does not have this version's schema, or holds the sessions of
    another machine. Alembic is imported only here, because it would be a tenth of a worker's memory."""
    from gateway.repositories.sql import schema

    schema.require_current(settings.db)
    owner.require_own(settings.db, lambda: Docker().engine_id)


def create_app(settings: Settings, door: Path | None = None) -> Flask:
    """Return the application for this machine's Docker, GPUs and files. Its reaper is not started yet.

    `door` is the path of the unix socket by which sessions call this gateway.

    Raises `StartRefused` if other hosts could call an API that has no token yet, if the GPUs cannot be
    simulated as requested, if the subnet is in use, if --session-io cannot be enforced, if the host runs
    sessions of another database, and for an unknown failpoint. The caller must have called
    `require_own_database` before.
    """
    failpoints.arm(os.environ.get("GATEWAY_FAILPOINTS", ""))
    if settings.simulate_gpus:
        simulation.install(settings.simulate_gpus, _simulated(settings))
    parts = parts_of_this_machine(settings, door)
    _require_free_subnet(settings)
    _require_limitable_disk(settings)
    if lobby := lobby_of(settings):
        lobby.make_key()
    _require_protection(settings, Tokens(parts.database, parts.clock))
    Recovery(
        parts.database, parts.host, parts.pipes, parts.clock, UsageLog(settings.timezone)
    ).require_own_sessions()
    return assemble(settings, parts).flask


def _require_protection(settings: Settings, tokens: Tokens) -> None:
    """Raise `StartRefused` if other hosts can reach the API and no token exists: every client would be an
    administrator, also through a proxy on this machine."""
    if not settings.is_private and not tokens.any():
        public = f"--listen (GATEWAY_LISTEN): {settings.listen} is not loopback"
        if settings.listens_locally:
            public = f"--public-url (GATEWAY_PUBLIC_URL): {settings.public_url} is for other hosts"
        raise StartRefused(
            f"{public} and no token exists yet: make one with `gateway token create NAME --role admin` first."
        )
    if not settings.listens_locally and not settings.public_url.startswith("https:"):
        log.warning(
            "the API is public without TLS: others on the network can read tokens and private keys; put a "
            "proxy with TLS in front, as docs/install.md shows"
        )


def assemble(settings: Settings, parts: Parts) -> Gateway:
    """Build the gateway from its parts. Starts no thread."""
    database, host, pipes, clock = parts.database, parts.host, parts.pipes, parts.clock
    words = Words(settings.timezone, settings.contact, settings.language)
    notice_days = timedelta(days=settings.notice_days)
    login_notices = LoginNotices(database, parts.notices, words, notice_days, clock)
    closing = Closing(database, host, pipes, login_notices, UsageLog(settings.timezone), clock)
    routing = Routing(database, host, pipes)
    limit = LeaseLimit(timedelta(minutes=settings.max_lease_minutes))
    quota = WorkspaceQuota(host, settings.workspace_quota_bytes)
    notices = Notices(database, host, limit, words, quota, notice_days)
    disk_use = DiskUse(database, host, notices, quota, clock)
    images = Images(host, settings.named_images)
    policies, ttl = Policies(database, clock), timedelta(minutes=settings.max_ttl_minutes)
    sessions = Sessions(database, host, pipes, closing, routing, quota, notices, images, policies, ttl, clock)
    claim = timedelta(minutes=settings.claim_minutes)
    waiting_line = Queue(database, host, sessions, login_notices, claim, clock)
    leases = Leases(database, notices, limit, policies, clock)
    history = timedelta(days=settings.history_days)
    reconciler = Reconciler(database, host, closing, routing, notices, history, clock)
    watch = Watch(database, host)
    plan = WarningPlan(settings.warn_minutes, timedelta(seconds=settings.end_signal_seconds))
    warnings = Warnings(database, host, notices, plan, clock)
    idle = Idle(
        database,
        host,
        closing,
        notices,
        waiting_line,
        timedelta(minutes=settings.idle_minutes),
        IdlePolicy(settings.idle_policy),
        clock,
    )
    leadership = leadership_of(settings)
    checks = readiness.checks(database, host, pipes, quota, leadership.last_tick)
    inventory = GpuInventory(database, host, MigPolicy(settings.mig_policy), clock)
    gauges = Gauges(database, inventory, checks, clock)
    sender = Webhooks(database, parts.receivers, clock)
    opener = Opener(waiting_line)
    reaper = Reaper(
        reconciler,
        watch,
        Warner(warnings),
        LoginRecorder(parts.reports, SshLogins(database, clock)),
        disk_use,
        gauges,
        Sender(sender),
        Idler(idle),
        opener,
        leadership,
    )
    flask = Flask("gateway", static_folder=None)
    flask.config["MAX_CONTENT_LENGTH"] = LARGEST_BODY
    flask.json.sort_keys = False  # type: ignore[attr-defined]
    flask.url_map.converters |= {"int": PathNumber, "default": PathText}
    gateway = Gateway(
        flask,
        sessions,
        leases,
        waiting_line,
        opener,
        login_notices,
        warnings,
        reconciler,
        disk_use,
        gauges,
        sender,
        idle,
        reaper,
    )
    flask.extensions["gateway"] = gateway
    _serve(gateway, settings, parts, routing)
    return gateway


def _serve(gateway: Gateway, settings: Settings, parts: Parts, routing: Routing) -> None:
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
    browsers.register(app, settings.api_hosts, clock)
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


def _simulated(settings: Settings) -> Path:
    return settings.state_dir / "simulated-gpus.json"


def leadership_of(settings: Settings) -> Leadership:
    if settings.db.path is None:
        return DatabaseLeadership(settings.db)
    return FileLeadership(settings.state_dir / "reaper.lock")


def parts_of_this_machine(settings: Settings, door: Path | None = None) -> Parts:
    """Return the parts without a connection to any of them, and without creating anything."""
    docker, database = Docker(), SqlDatabase(settings.db)
    host = LocalHost(
        gpus=TimeLimitedGpus(
            Gpus(
                settings.state_dir / "gpu-locks",
                simulated=bool(settings.simulate_gpus),
                whole_gpus=settings.whole_gpus,
            )
        ),
        containers=DockerContainers(
            docker,
            image=settings.image,
            network=settings.network,
            limits=limits_of(settings),
            start_timeout_seconds=settings.start_timeout_seconds,
            simulated_gpus=bool(settings.simulate_gpus),
            deployment=lambda: _deployment_id(database),
            allowed_weaknesses=settings.allow_weaker,
            opens_gpu=simulation.opens(_simulated(settings)) if settings.simulate_gpus else None,
        ),
        network=Worknet(
            docker,
            settings.network,
            settings.subnet,
            router_uids=lambda: _router_uids(settings.piper_config),
        ),
        egress=Egress(
            docker,
            settings.network,
            settings.subnet,
            settings.open_hosts,
            settings.state_dir / "egress",
            settings.egress_private_subnets,
        ),
        workspaces=HostWorkspaces(
            settings.workspace_root,
            settings.workspace_quota_bytes,
            record=settings.state_dir / "workspace-root-is-marked",
        ),
        files=HostSessionFiles(settings.state_dir / "sessions", _egress_proxy(settings), door),
        subnet=ipaddress.IPv4Network(settings.subnet),
        mig_policy=MigPolicy(settings.mig_policy),
        uid_range=settings.uid_range,
        meter=DcgmExporter(settings.dcgm_exporter) if settings.dcgm_exporter else None,
    )
    pipes = PipesOnDisk(settings.piper_config, has_lobby=settings.lobby is not None)
    receivers = HttpReceivers(settings.webhook_networks)
    return Parts(
        database,
        host,
        pipes,
        _notices(settings, pipes),
        receivers=receivers,
        reports=LoginSocket(settings.piper_config),
    )


def _notices(settings: Settings, pipes: PipesOnDisk) -> NoticeFiles:
    files, lobby = NoticesOnDisk(settings.piper_config), lobby_of(settings)
    return LobbyNotices(files, pipes, lobby) if lobby else files


def lobby_of(settings: Settings) -> Lobby | None:
    if settings.lobby is None:
        return None
    host, port = settings.lobby
    return Lobby(host, port, settings.piper_config.parent / "lobby_key", settings.entry_host_keys)


def _require_free_subnet(settings: Settings) -> None:
    try:
        Worknet(Docker(), settings.network, settings.subnet).require_free_subnet()
    except DockerUnavailable:
        pass  # the gateway starts without Docker; the subnet is checked again when the network is created
    except NetworkUnavailable as error:
        raise StartRefused(str(error)) from error


def _require_limitable_disk(settings: Settings) -> None:
    root = settings.workspace_root
    if settings.session_io and root.exists() and disk_of(root) is None:
        raise StartRefused(NO_DISK.format(path=root))


def limits_of(settings: Settings) -> Limits:
    return Limits(
        memory=settings.session_memory,
        cpus=settings.session_cpus,
        pids=settings.session_pids,
        open_files=settings.session_open_files,
        shm=settings.session_shm,
        tmp=settings.session_tmp,
        read_only_root=settings.read_only_root,
        io=settings.session_io_bytes,
        bandwidth=settings.session_bandwidth_bytes,
    )


def _deployment_id(database: Database) -> str:
    with database.read() as rows:
        return rows.deployment_id()


def _router_uids(pipe_file: Path) -> set[int]:
    """The uids of root and of the pipe file's owner. Only the owner can read the file, so the router runs as
    that user."""
    return {0, pipe_file.stat().st_uid} if pipe_file.exists() else {0}


def _egress_proxy(settings: Settings) -> EgressProxy | None:
    if not settings.open_hosts:
        return None
    proxy = addresses.proxy(ipaddress.IPv4Network(settings.subnet))
    return EgressProxy(f"http://{proxy}", settings.open_hosts)
