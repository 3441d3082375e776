"""The parts for this machine's Docker, GPUs, files and database."""

import ipaddress
from pathlib import Path

from gateway import simulation
from gateway.app.parts import Parts
from gateway.domain import addresses
from gateway.domain.mig import MigPolicy
from gateway.errors import PipesUnavailable
from gateway.repositories.dcgm import DcgmExporter
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
from gateway.repositories.files.time_limit import TimeLimitedWorkspaces
from gateway.repositories.files.workspaces import HostWorkspaces
from gateway.repositories.host import LocalHost
from gateway.repositories.nvml.gpus import Gpus
from gateway.repositories.nvml.time_limit import TimeLimitedGpus
from gateway.repositories.receivers import HttpReceivers
from gateway.repositories.sql.database import SqlDatabase
from gateway.repositories.sql.leadership import DatabaseLeadership, FileLeadership
from gateway.services.ports import Database, Leadership, NoticeFiles
from gateway.settings import Settings


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
            opens_gpu=simulation.opens(simulated_gpus_file(settings)) if settings.simulate_gpus else None,
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
        workspaces=TimeLimitedWorkspaces(
            HostWorkspaces(
                settings.workspace_root,
                settings.workspace_quota_bytes,
                record=settings.state_dir / "workspace-root-is-marked",
            )
        ),
        files=HostSessionFiles(
            settings.state_dir / "sessions", _egress_proxy(settings), door, settings.language
        ),
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


def leadership_of(settings: Settings) -> Leadership:
    if settings.db.path is None:
        return DatabaseLeadership(settings.db)
    return FileLeadership(settings.state_dir / "reaper.lock")


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


def lobby_of(settings: Settings) -> Lobby | None:
    if settings.lobby is None:
        return None
    host, port = settings.lobby
    return Lobby(host, port, settings.piper_config.parent / "lobby_key", settings.entry_host_keys)


def _notices(settings: Settings, pipes: PipesOnDisk) -> NoticeFiles:
    files, lobby = NoticesOnDisk(settings.piper_config), lobby_of(settings)
    return LobbyNotices(files, pipes, lobby) if lobby else files


def simulated_gpus_file(settings: Settings) -> Path:
    return settings.state_dir / "simulated-gpus.json"


def _deployment_id(database: Database) -> str:
    with database.read() as rows:
        return rows.deployment_id()


def _router_uids(pipe_file: Path) -> set[int]:
    """The uids of root and of the pipe file's owner. Only the owner can read the file, so the router runs as
    that user."""
    try:
        return {0, pipe_file.stat().st_uid}
    except FileNotFoundError:
        return {0}
    except OSError as error:
        raise PipesUnavailable(f"The pipe file cannot be read ({error.strerror}).") from error


def _egress_proxy(settings: Settings) -> EgressProxy | None:
    if not settings.open_hosts:
        return None
    proxy = addresses.proxy(ipaddress.IPv4Network(settings.subnet))
    return EgressProxy(f"http://{proxy}", settings.open_hosts)
