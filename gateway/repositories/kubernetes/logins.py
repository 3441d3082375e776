"""Commands in sessions, by SSH with the router's key: the gateway needs no right to execute in pods."""

import os
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
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
        known = f"[{login.address}]:{SSH_PORT} {login.host_key}\n"
        with _in_memory(login.private_key) as key, _in_memory(known) as known_hosts:
            done = self._connect(key, known_hosts, login, f"{MARK_OF_GATEWAY} {shlex.join(command)}")
        if done.returncode == _NOT_CONNECTED:
            raise NotReachable(f"The session's sshd does not let the gateway in: {_line(done.stderr)}")
        if done.returncode:
            raise ContainerFailed(f"A command in the session failed: {_line(done.stdout + done.stderr)}")
        return done.stdout

    def _connect(
        self, key: str, known_hosts: str, login: Login, command: str
    ) -> "subprocess.CompletedProcess[str]":
        options = [f"-o{option}" for option in (*_OPTIONS, f"UserKnownHostsFile={known_hosts}")]
        arguments = ["ssh", "-F", "none", "-T", "-p", str(SSH_PORT), "-i", key, *options]
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


@contextmanager
def _in_memory(text: str) -> Iterator[str]:
    """A file that ssh can read, and that ends with this process: a killed one leaves no key on a disk."""
    descriptor = os.memfd_create("gateway-login", os.MFD_CLOEXEC)
    try:
        os.fchmod(descriptor, 0o600)  # ssh refuses keys that others may read
        os.write(descriptor, text.encode())
        yield f"/proc/{os.getpid()}/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _line(text: str) -> str:
    return " ".join(text.split())[:200]
