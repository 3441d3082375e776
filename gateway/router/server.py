"""The start of the router: its host keys, its listening sockets, its processes."""

import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from gateway.errors import StartRefused
from gateway.router import host_key
from gateway.router.account import Account
from gateway.router.route import public_keys
from gateway.router.ssh.keys import PrivateKey
from gateway.router.supervisor import Supervisor

BACKLOG = 1024

_FIRST_PASSED_SOCKET = 3  # sd_listen_fds(3)


def serve(
    piper_config: Path,
    listen: list[tuple[str, int]],
    *host_keys: Path,
    processes: int | None = None,
    lobby_key: Path | None = None,
    metrics: tuple[str, int] | None = None,
    account: Account | None = None,
) -> None:
    """Route logins until SIGTERM, with as many worker processes as there are cores if not said otherwise.

    With `lobby_key`, a file of public keys, the router is a lobby: these keys open every user's route or
    notice, and no other key opens any.

    SIGTERM ends the listening. The process ends with its last connection, after a minute, or at the
    second SIGTERM. SIGHUP ends the process at once, so that another can take its place; the workers stay
    until their last connection has ended. `metrics` is where Prometheus finds /metrics. With `account`, a
    router that root starts gives up root before it speaks to any client. Raises StartRefused where a key, a
    port or the account cannot be used.
    """
    if lobby_key and not host_keys:
        host_keys = (host_key.lobby_default(piper_config.parent),)
    keys = _host_keys(piper_config, host_keys, account)
    sockets = _passed_sockets() or [_bound(host, port) for host, port in listen]
    workers = processes or len(os.sched_getaffinity(0))
    page = _bound(*metrics) if metrics else None
    lobby_keys = _lobby_keys(lobby_key)
    if account and not account.is_ours:
        account.become()
    Supervisor(piper_config, sockets, keys, workers, lobby_keys, page).run()


def prepare(piper_config: Path, *host_keys: Path, account: Account) -> None:
    """Make the host keys and the pipe file if they are missing, and give them to the account. Needs root.

    Raises StartRefused."""
    account.require_root()
    _host_keys(piper_config, host_keys, account)


def _host_keys(
    piper_config: Path, given: Sequence[Path], account: Account | None
) -> Mapping[str, PrivateKey]:
    paths = given or host_key.defaults(piper_config.parent)
    if account is None or account.is_ours:
        return host_key.load_all(paths)
    account.require_root()
    keys = host_key.load_all(paths)
    account.take_over(piper_config, paths)
    return keys


def _lobby_keys(path: Path | None) -> frozenset[bytes]:
    if path is None:
        return frozenset()
    try:
        keys = frozenset(public_keys(path.read_text()))
    except (OSError, UnicodeDecodeError) as error:
        raise StartRefused(f"--lobby-key: {path} cannot be read: {error}.") from error
    if not keys:
        raise StartRefused(f"--lobby-key: {path} has no public key: name the .pub file.")
    return keys


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        # create_server wraps the system's words in its own, a failed look-up has no errno.
        reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise StartRefused(f"The router cannot listen on {host}:{port}: {reason}.") from error


def _passed_sockets() -> list[socket.socket]:
    """Those that systemd opened, if it did: they survive a restart."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = int(os.environ.get("LISTEN_FDS", "0"))
    return [socket.socket(fileno=_FIRST_PASSED_SOCKET + number) for number in range(count)]
