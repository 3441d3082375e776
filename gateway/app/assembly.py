"""Connects the services and the background work to the parts."""

from dataclasses import dataclass
from datetime import timedelta

from flask import Flask

from gateway.api.limits import LARGEST_BODY
from gateway.api.requests import PathNumber, PathText
from gateway.app import web
from gateway.app.gateway import Gateway
from gateway.app.machine import leadership_of
from gateway.app.parts import Parts
from gateway.background.idler import Idler
from gateway.background.login_recorder import LoginRecorder
from gateway.background.opener import Opener
from gateway.background.prober import Prober
from gateway.background.reaper import Reaper
from gateway.background.reconciler import Reconciler
from gateway.background.sender import Sender
from gateway.background.warner import Warner
from gateway.background.watch import Watch
from gateway.domain.activity import IdlePolicy
from gateway.domain.lease import LeaseLimit
from gateway.domain.mig import MigPolicy
from gateway.domain.warnings import WarningPlan
from gateway.domain.words import Words
from gateway.services import readiness
from gateway.services.closing import Closing
from gateway.services.disk_use import DiskUse
from gateway.services.gauges import Gauges
from gateway.services.gpus import GpuInventory
from gateway.services.idle import Idle
from gateway.services.images import Images
from gateway.services.leases import Leases
from gateway.services.login_notices import LoginNotices
from gateway.services.notices import Notices
from gateway.services.policies import Policies
from gateway.services.ports import Leadership
from gateway.services.queue import Queue
from gateway.services.quota import WorkspaceQuota
from gateway.services.routing import Routing
from gateway.services.sessions import Sessions
from gateway.services.ssh_logins import SshLogins
from gateway.services.usage import UsageLog
from gateway.services.warnings import Warnings
from gateway.services.webhooks import Webhooks
from gateway.settings import Settings


@dataclass(frozen=True)
class _Shared:
    """What several services need."""

    login_notices: LoginNotices
    closing: Closing
    routing: Routing
    limit: LeaseLimit
    quota: WorkspaceQuota
    notices: Notices
    policies: Policies


def assemble(settings: Settings, parts: Parts) -> Gateway:
    """Build the gateway from its parts. Starts no thread."""
    database, host, clock = parts.database, parts.host, parts.clock
    shared = _shared(settings, parts)
    sessions = _sessions(settings, parts, shared)
    claim = timedelta(minutes=settings.claim_minutes)
    line = Queue(database, host, sessions, shared.login_notices, claim, clock)
    leadership = leadership_of(settings)
    inventory = GpuInventory(
        database, host, MigPolicy(settings.mig_policy), shared.policies, sessions.longest_ttl, clock
    )
    checks = readiness.checks(database, host, parts.pipes, shared.quota, leadership.last_tick)
    history = timedelta(days=settings.history_days)
    warning_plan = WarningPlan(settings.warn_minutes, timedelta(seconds=settings.end_signal_seconds))
    background = _Background(
        Reconciler(database, host, shared.closing, shared.routing, shared.notices, inventory, history, clock),
        Warnings(database, host, shared.notices, warning_plan, clock),
        DiskUse(database, host, shared.notices, shared.quota, clock),
        Gauges(database, inventory, checks, clock),
        Webhooks(database, parts.receivers, clock),
        _idle(settings, parts, shared, line),
        Opener(line),
    )
    gateway = Gateway(
        flask=_flask(),
        sessions=sessions,
        leases=Leases(database, shared.notices, shared.limit, shared.policies, clock),
        queue=line,
        opener=background.opener,
        login_notices=shared.login_notices,
        warnings=background.warnings,
        reconciler=background.reconciler,
        disk_use=background.disk_use,
        gauges=background.gauges,
        webhooks=background.webhooks,
        idle=background.idle,
        reaper=background.reaper(parts, leadership),
    )
    gateway.flask.extensions["gateway"] = gateway
    web.serve(gateway, settings, parts, shared.routing)
    return gateway


def _shared(settings: Settings, parts: Parts) -> _Shared:
    database, host, clock = parts.database, parts.host, parts.clock
    words = Words(settings.timezone, settings.contact, settings.language)
    notice_days = timedelta(days=settings.notice_days)
    login_notices = LoginNotices(database, parts.notices, words, notice_days, clock)
    limit = LeaseLimit(timedelta(minutes=settings.max_lease_minutes))
    quota = WorkspaceQuota(host, settings.workspace_quota_bytes)
    return _Shared(
        login_notices,
        Closing(database, host, parts.pipes, login_notices, UsageLog(settings.timezone), clock),
        Routing(database, host, parts.pipes),
        limit,
        quota,
        Notices(database, host, limit, words, quota, notice_days),
        Policies(database, clock),
    )


def _sessions(settings: Settings, parts: Parts, shared: _Shared) -> Sessions:
    return Sessions(
        parts.database,
        parts.host,
        parts.pipes,
        shared.closing,
        shared.routing,
        shared.quota,
        shared.notices,
        Images(parts.host, settings.named_images),
        shared.policies,
        timedelta(minutes=settings.max_ttl_minutes),
        parts.clock,
    )


def _idle(settings: Settings, parts: Parts, shared: _Shared, line: Queue) -> Idle:
    return Idle(
        parts.database,
        parts.host,
        shared.closing,
        shared.notices,
        line,
        timedelta(minutes=settings.idle_minutes),
        IdlePolicy(settings.idle_policy),
        timedelta(minutes=settings.idle_connected_minutes),
        parts.clock,
    )


@dataclass(frozen=True)
class _Background:
    """What the reaper's threads run."""

    reconciler: Reconciler
    warnings: Warnings
    disk_use: DiskUse
    gauges: Gauges
    webhooks: Webhooks
    idle: Idle
    opener: Opener

    def reaper(self, parts: Parts, leadership: Leadership) -> Reaper:
        return Reaper(
            self.reconciler,
            Watch(parts.database, parts.host),
            Warner(self.warnings),
            LoginRecorder(parts.reports, SshLogins(parts.database, parts.clock)),
            self.disk_use,
            self.gauges,
            Sender(self.webhooks),
            Idler(self.idle),
            self.opener,
            Prober(parts.database, parts.host, parts.clock),
            leadership,
        )


def _flask() -> Flask:
    flask = Flask("gateway", static_folder=None)
    flask.config["MAX_CONTENT_LENGTH"] = LARGEST_BODY
    flask.json.sort_keys = False  # type: ignore[attr-defined]
    flask.url_map.converters |= {"int": PathNumber, "default": PathText}
    return flask
