"""Commands in the sessions' containers, with the rights of their users: for checks and probes."""

from collections.abc import Sequence
from typing import Any

from gateway.repositories.docker.client import Docker, translated_errors


class Inside:
    """Containers are named by id. Raises `DockerUnavailable`, `ContainerFailed`."""

    def __init__(self, docker: Docker) -> None:
        self._docker = docker

    def run(self, container_id: str, command: Sequence[str]) -> tuple[int, str]:
        """Run a command as the session's user, and return its exit code and standard output.

        After a failure, the output includes standard error. The command must end within the 30 s in which
        Docker must answer.
        """
        with translated_errors():
            api: Any = self._docker.client.api
            exec_id = api.exec_create(container_id, list(command))["Id"]
            stdout, stderr = api.exec_start(exec_id, demux=True)
            code = api.exec_inspect(exec_id)["ExitCode"]
        text: bytes = (stdout or b"") + ((stderr or b"") if code else b"")
        return int(code), text.decode(errors="replace")

    def memory_limit(self, container_id: str) -> int:
        """Return the memory limit of the container, in bytes."""
        with translated_errors():
            api: Any = self._docker.client.api
            return int(api.inspect_container(container_id)["HostConfig"]["Memory"])

    def log_size(self, container_id: str) -> int:
        """Return the size of the log that Docker keeps of the container's main process, in bytes."""
        with translated_errors():
            container = self._docker.client.containers.get(container_id)
            return sum(len(piece) for piece in container.logs(stream=True, follow=False))
