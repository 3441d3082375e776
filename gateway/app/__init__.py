"""Builds the Flask application from the settings: the only package that knows services and repositories."""

import logging
import os
from pathlib import Path

from flask import Flask

from gateway import failpoints, simulation
from gateway.app.assembly import assemble
from gateway.app.gateway import Gateway
from gateway.app.machine import (
    leadership_of,
    limits_of,
    lobby_of,
    parts_of_this_machine,
    simulated_gpus_file,
)
from gateway.app.parts import Parts
from gateway.domain.recovery import ON_A_SERVER, on_a_cluster
from gateway.errors import DockerUnavailable, NetworkUnavailable, StartRefused
from gateway.repositories.disk import NO_DISK, disk_of
from gateway.repositories.docker.client import Docker
from gateway.repositories.docker.network import Worknet
from gateway.repositories.sql import owner
from gateway.services.recovery import Recovery
from gateway.services.tokens import Tokens
from gateway.services.usage import UsageLog
from gateway.settings import Settings

__all__ = [
    "Gateway",
    "Parts",
    "assemble",
    "create_app",
    "leadership_of",
    "limits_of",
    "machine_id",
    "parts_of",
    "parts_of_this_machine",
    "recovery_of",
    "require_own_database",
    "simulated_gpus_file",
]

log = logging.getLogger(__name__)


def require_own_database(settings: Settings) -> None:
    """Raises `StartRefused` when the database does not have this version's schema, or holds the sessions of
    another machine. Alembic is imported only here, because it would be a tenth of a worker's memory."""
    from gateway.repositories.sql import schema

    schema.require_current(settings.db)
    owner.require_own(settings.db, lambda: machine_id(settings))


def machine_id(settings: Settings) -> str:
    """Return what identifies the Docker Engine or the cluster that runs the sessions."""
    if not settings.is_cluster:
        return Docker().engine_id
    from gateway.app.cluster import machine_of

    return machine_of(settings)


def parts_of(settings: Settings, door: Path | None = None) -> Parts:
    """Return the parts of the site: of this machine, or of a cluster. The client of Kubernetes is imported
    only for a cluster. Raises `StartRefused`."""
    if not settings.is_cluster:
        return parts_of_this_machine(settings, door)
    from gateway.app.cluster import parts_of_cluster

    return parts_of_cluster(settings)


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
        simulation.install(settings.simulate_gpus, simulated_gpus_file(settings))
    parts = parts_of(settings, door)
    if settings.is_cluster:
        _prepare_cluster(settings)
    else:
        _prepare_machine(settings)
    _require_protection(settings, Tokens(parts.database, parts.clock))
    recovery_of(settings, parts).require_own_sessions()
    return assemble(settings, parts).flask


def recovery_of(settings: Settings, parts: Parts) -> Recovery:
    remedies = on_a_cluster(settings.namespace_sessions) if settings.is_cluster else ON_A_SERVER
    usage = UsageLog(settings.timezone)
    return Recovery(parts.database, parts.host, parts.pipes, parts.clock, usage, remedies)


def _prepare_machine(settings: Settings) -> None:
    _require_free_subnet(settings)
    _require_limitable_disk(settings)
    if lobby := lobby_of(settings):
        lobby.make_key()


def _prepare_cluster(settings: Settings) -> None:
    from gateway.app.cluster import prepare_lobby

    prepare_lobby(settings)


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
