"""The SSH address that users connect to."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any


class EntryPoint:
    """`host_keys` are the files with the public keys, which the router makes at its first start and keeps."""

    def __init__(self, host: str, port: int, host_keys: Sequence[Path]) -> None:
        self._host = host
        self._port = port
        self._host_key_files = host_keys
        self._changed: list[int | None] = []
        self._known_hosts: str | None = None

    def describe(self, user_id: str) -> dict[str, Any]:
        """Return the fields of a session that say how its user connects."""
        port = "" if self._port == 22 else f" -p {self._port}"
        return {
            "ssh_user": user_id,
            "ssh_host": self._host,
            "ssh_port": self._port,
            "ssh_command": f"ssh{port} {user_id}@{self._host}",
            "ssh_known_hosts": self._known_hosts_lines(),
        }

    def _known_hosts_lines(self) -> str | None:
        """Return a line for each host key, or None if there is none; changed files are read again."""
        changed = [_changed(file) for file in self._host_key_files]
        if changed != self._changed:
            host = self._host if self._port == 22 else f"[{self._host}]:{self._port}"
            lines = [f"{host} {key}" for file in self._host_key_files for key in _public_keys(file)]
            self._changed, self._known_hosts = changed, "\n".join(lines) or None
        return self._known_hosts


def _changed(file: Path) -> int | None:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return None


def _public_keys(file: Path) -> list[str]:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return []
    return [" ".join(line.split()[:2]) for line in lines if line.strip() and not line.startswith("#")]
