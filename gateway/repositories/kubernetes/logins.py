"""Commands in sessions, by SSH with the router's key: the gateway needs no right to execute in pods."""

import re
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from gateway.domain.plan import SSH_PORT
from gateway.errors import ContainerFailed
from gateway.repositories.kubernetes.objects import MARK_OF_GATEWAY

_NOT_CONNECTED = 255  # ssh's own exit status
_SECONDS = 30
_OPTIONS = (
    "BatchMode=yes",
    "IdentitiesOnly=yes",
    "IdentityAgent=none",
    "StrictHostKeyChecking=yes",
    "GlobalKnownHostsFile=/dev/null",
    "PreferredAuthentications=publickey",
    "ConnectTimeout=5",
    "ServerAliveInterval=5",
    "LogLevel=ERROR",
)
_LOST = re.compile(
    "GPU is lost|Unable to determine the device handle|Failed to initialize NVML|No devices (were )?found"
)
_MIG_LISTED = re.compile(r"\(UUID: (MIG-[^)]+)\)")


class NotReachable(ContainerFailed):
    """The session's sshd does not answer, or does not accept the gateway's key."""


@dataclass(frozen=True, slots=True)
class Login:
    """How the router, and so the gateway, logs in to a session. `host_key` is its sshd's public key."""

    address: str
    username: str
    private_key: str = field(repr=False)
    host_key: str


class Logins(Protocol):
    def run(self, login: Login, command: Sequence[str]) -> str:
        """Run a command as the session's user and return its output, which the user can change to any text.

        Raises `NotReachable` without a connection, and `ContainerFailed` if the command fails.
        """


class SshLogins:
    """By OpenSSH's client."""

    def run(self, login: Login, command: Sequence[str]) -> str:
        with tempfile.TemporaryDirectory(prefix="gateway-login-") as directory:
            done = self._connect(Path(directory), login, f"{MARK_OF_GATEWAY} {shlex.join(command)}")
        if done.returncode == _NOT_CONNECTED:
            raise NotReachable(f"The session's sshd does not let the gateway in: {_line(done.stderr)}")
        if done.returncode:
            raise ContainerFailed(f"A command in the session failed: {_line(done.stdout + done.stderr)}")
        return done.stdout

    def _connect(self, directory: Path, login: Login, command: str) -> "subprocess.CompletedProcess[str]":
        key, known = directory / "key", directory / "known_hosts"
        key.touch(0o600)
        key.write_text(login.private_key)
        known.write_text(f"[{login.address}]:{SSH_PORT} {login.host_key}\n")
        options = [f"-o{option}" for option in (*_OPTIONS, f"UserKnownHostsFile={known}")]
        arguments = ["ssh", "-F", "none", "-T", "-p", str(SSH_PORT), "-i", str(key), *options]
        try:
            return subprocess.run(
                [*arguments, f"{login.username}@{login.address}", command],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise ContainerFailed(f"A command in the session did not end within {_SECONDS} s.") from None


def only_slice(listing: str) -> str:
    """Return the UUID of the one MIG device that `nvidia-smi -L` lists. Raises `ContainerFailed`."""
    found = _MIG_LISTED.findall(listing)
    if len(found) != 1:
        seen = ", ".join(found) or _line(listing)
        raise ContainerFailed(f"The session should see one MIG device and no other, but sees: {seen}.")
    return str(found[0])


def shows_lost_gpu(said: str) -> bool:
    """Whether this is what nvidia-smi says without its GPU."""
    return _LOST.search(said) is not None


def _line(text: str) -> str:
    return " ".join(text.split())[:200]
