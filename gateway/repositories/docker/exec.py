"""Sessions' containers from inside, as their users have them: for whoever puts them to the test."""

from collections.abc import Sequence
from typing import Any

from gateway.repositories.docker.client import Docker, translated_errors


class Inside:
    """Containers are named by id. Raises `DockerUnavailable`, `ContainerFailed`."""

    def __init__(self, docker: Docker) -> None:
        self._docker = docker

    def run(self, container_id: str, command: Sequence[str]) -> tuple[int, str]:
        """Exit code and standard output of a command that is run as the session's user; when it failed,
        what it said on standard error too. It has less than the 30 s that Docker has for any answer."""
        with translated_errors():
            api: Any = self._docker.client.api
            exec_id = api.exec_create(container_id, list(command))["Id"]
            said, complained = api.exec_start(exec_id, demux=True)
            code = api.exec_inspect(exec_id)["ExitCode"]
        text: bytes = (said or b"") + ((complained or b"") if code else b"")
        return int(code), text.decode(errors="replace")

    def log_size(self, container_id: str) -> int:
        """Bytes that Docker keeps of what the container's main process said."""
        with translated_errors():
            container = self._docker.client.containers.get(container_id)
            return sum(len(piece) for piece in container.logs(stream=True, follow=False))
