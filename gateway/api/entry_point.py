"""The SSH address that users connect to."""

from pathlib import Path
from typing import Any


class EntryPoint:
    """`host_key` is the file with the public key, which the router makes at its first start and keeps."""

    def __init__(self, host: str, port: int, host_key: Path) -> None:
        self._host = host
        self._port = port
        self._host_key_file = host_key
        self._host_key: str | None = None

    def describe(self, user_id: str) -> dict[str, Any]:
        """Return the fields of a session that say how its user connects."""
        port = "" if self._port == 22 else f" -p {self._port}"
        return {
            "ssh_user": user_id,
            "ssh_host": self._host,
            "ssh_port": self._port,
            "ssh_command": f"ssh{port} {user_id}@{self._host}",
            "ssh_known_hosts": self._known_hosts_line(),
        }

    def _known_hosts_line(self) -> str | None:
        if self._host_key is None:
            try:
                self._host_key = " ".join(self._host_key_file.read_text().split()[:2])
            except OSError:
                return None
        return f"{self._host if self._port == 22 else f'[{self._host}]:{self._port}'} {self._host_key}"
