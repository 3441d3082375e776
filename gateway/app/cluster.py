"""The parts for a cluster of Kubernetes, and what all gateways on one cluster call it."""

import platform
from collections.abc import Callable, Collection
from datetime import timedelta
from functools import cache

from gateway.app.parts import Parts
from gateway.domain import clock
from gateway.domain.uids import UidRange
from gateway.errors import KubernetesUnavailable, StartRefused
from gateway.repositories.files.login_socket import LoginSocket
from gateway.repositories.files.notices import NoticeFiles
from gateway.repositories.files.pipes import Pipes
from gateway.repositories.receivers import HttpReceivers
from gateway.repositories.sql.advisory import AdvisoryLocks
from gateway.repositories.sql.database import SqlDatabase
from gateway.services.ports import Database
from gateway.settings import Settings

try:
    from gateway.repositories.kubernetes import api as kubernetes_api
    from gateway.repositories.kubernetes.api import Api
    from gateway.repositories.kubernetes.boards import Boards
    from gateway.repositories.kubernetes.cluster import ClusterHost
    from gateway.repositories.kubernetes.cordons import Cordons
    from gateway.repositories.kubernetes.egress import ClusterEgress
    from gateway.repositories.kubernetes.gpus import ClusterGpus
    from gateway.repositories.kubernetes.lobby import Lobby, LobbyNotices
    from gateway.repositories.kubernetes.locks import Locks
    from gateway.repositories.kubernetes.login_reports import ClusterReports, ReportSender
    from gateway.repositories.kubernetes.logins import Login, Logins, SshLogins
    from gateway.repositories.kubernetes.mirror import Mirror
    from gateway.repositories.kubernetes.notices import ClusterNotices
    from gateway.repositories.kubernetes.objects import Site
    from gateway.repositories.kubernetes.pipes import ClusterPipes
    from gateway.repositories.kubernetes.running import Running
    from gateway.repositories.kubernetes.service_url import ServiceUrl
except ImportError as error:
    raise StartRefused(
        "--site (GATEWAY_SITE): the client of Kubernetes is not installed: run "
        "`pip install 'gpu-ssh-gateway[kubernetes,postgresql]'`."
    ) from error


def parts_of_cluster(settings: Settings) -> Parts:
    """Return the parts without a connection to any of them. Raises `StartRefused` if no cluster is known."""
    api, database = kubernetes_api.connect(), SqlDatabase(settings.db)
    site, locks = site_of(settings), AdvisoryLocks(settings.db)
    host, pipes = parts_over(
        database,
        api,
        site,
        SshLogins(),
        locks,
        start_timeout_seconds=settings.start_timeout_seconds,
        uid_range=settings.uid_range,
        gives_advice=settings.advice,
    )
    receivers = HttpReceivers(settings.webhook_networks)
    notices, lobby = notices_over(database, api, site, locks), lobby_of(settings, api)
    return Parts(
        database,
        host,
        pipes,
        LobbyNotices(notices, lobby) if lobby else notices,
        clock.shared,
        receivers,
        ClusterReports(api, site.routes),
    )


def parts_over(
    database: Database,
    api: Api,
    site: Site,
    logins: Logins,
    locks: Locks,
    *,
    start_timeout_seconds: float,
    uid_range: UidRange,
    gives_advice: bool = True,
) -> tuple[ClusterHost, ClusterPipes]:
    """Return the host and the routes of the cluster that has this API."""
    deployment = _deployment_of(database)

    def known(session_ids: Collection[str]) -> set[str]:
        with database.read() as rows:
            return rows.known(session_ids)

    gpus = ClusterGpus(api, site.sessions)
    host = ClusterHost(
        api=api,
        site=site,
        locks=locks,
        logins=logins,
        login=lambda session_id: login_of(database, session_id),
        running=Running(api, site, deployment, start_timeout_seconds),
        gpus=gpus,
        boards=Boards(api, site.sessions),
        cordons=Cordons(api, gpus, deployment),
        lease_service=ServiceUrl(api, site.lease_service),
        egress=ClusterEgress(api, ServiceUrl(api, site.egress_service), site.egress_hosts),
        uid_range=uid_range,
        gives_advice=gives_advice,
    )
    return host, ClusterPipes(api, site, locks, deployment, known)


def notices_over(database: Database, api: Api, site: Site, locks: Locks) -> ClusterNotices:
    return ClusterNotices(api, site.routes, locks, _deployment_of(database))


def lobby_of(settings: Settings, api: Api) -> Lobby | None:
    return Lobby(api, settings.namespace_routes, *settings.lobby) if settings.lobby else None


def prepare_lobby(settings: Settings) -> None:
    """Make the keys of the lobby, if there is one: its pod waits for them. Raises `StartRefused` if
    Kubernetes refuses."""
    lobby = lobby_of(settings, kubernetes_api.connect())
    try:
        if lobby:
            lobby.keys()
    except KubernetesUnavailable as error:
        raise StartRefused(str(error)) from error


def _deployment_of(database: Database) -> Callable[[], str]:
    """Return what reads the id of the database. It never changes, so it is read once."""

    @cache
    def deployment() -> str:
        with database.read() as rows:
            return rows.deployment_id()

    return deployment


def mirror_of(settings: Settings) -> Mirror:
    """Return what writes the pipe file of a router beside it, and the notices, and sends what the router
    reports. They have a directory of their own."""
    settings.piper_config.parent.mkdir(parents=True, exist_ok=True)
    pipes = Pipes(settings.piper_config)
    notices = NoticeFiles(settings.piper_config)
    api, namespace = kubernetes_api.connect(), settings.namespace_routes
    reports = ReportSender(api, namespace, platform.node(), LoginSocket(settings.piper_config))
    return Mirror(api, namespace, pipes, notices, reports)


def site_of(settings: Settings) -> Site:
    return Site(
        sessions=settings.namespace_sessions,
        routes=settings.namespace_routes,
        device_class_prefix=settings.device_class_prefix,
        storage_class=settings.storage_class or None,
        access_mode=settings.volume_access,
        workspace_bytes=settings.workspace_quota_bytes or 0,
        memory=settings.memory_per_slice.bytes,
        cpus=settings.session_cpus,
        shm=settings.session_shm.bytes,
        tmp=settings.session_tmp.bytes,
        read_only_root=settings.read_only_root,
        longest_lease=timedelta(minutes=settings.max_lease_minutes),
        image=settings.image,
        language=settings.language,
        lease_service=settings.lease_service,
        egress_hosts=settings.egress_hosts,
        egress_service=settings.egress_service,
    )


def login_of(database: Database, session_id: str) -> Login | None:
    with database.read() as rows:
        row = rows.get(session_id)
    return Login(row.address or "", row.user_id, row.private_key, row.host_key) if row else None


def machine_of(settings: Settings) -> str:
    """Return what identifies the cluster, and the namespace in which the gateway makes sessions. Raises
    `StartRefused` if Kubernetes does not answer."""
    try:
        found = kubernetes_api.connect().get(kubernetes_api.NAMESPACES, "kube-system")
    except KubernetesUnavailable as error:
        raise StartRefused(str(error)) from error
    if found is None:
        raise StartRefused("--site (GATEWAY_SITE): the cluster has no namespace kube-system.")
    return f"{found['metadata']['uid']}/{settings.namespace_sessions}"
