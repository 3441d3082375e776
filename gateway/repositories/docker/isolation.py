"""Whether Docker isolates sessions: as the daemon reports it, and as a process in a session is confined."""

import time
from collections.abc import Collection, Iterable
from pathlib import Path

from gateway.domain import isolation
from gateway.errors import ContainerFailed, DockerUnavailable, GatewayError
from gateway.repositories.docker.client import Docker, translated_errors
from gateway.repositories.docker.exec import Inside

_APPARMOR = Path("/sys/module/apparmor")
_VALID_SECONDS = 60.0


class Isolation:
    """`allowed` are the names of the weaknesses that the administrator accepts."""

    def __init__(self, docker: Docker, allowed: Collection[str]) -> None:
        self._docker = docker
        self._allowed = allowed
        self._reported_until = 0.0
        self._shown_until = 0.0

    def describe(self) -> str:
        """Return Docker's versions. Raises `DockerUnavailable`, also if it cannot isolate sessions."""
        with translated_errors():
            self._docker.client.ping()
            version = self._docker.client.api.version(api_version=False)
        if isolation.is_too_old(version):
            raise DockerUnavailable(
                f"Docker Engine {version['Version']} is too old: "
                f"install {isolation.OLDEST_ENGINE}.0 or later."
            )
        self._reported_until = 0.0
        self.require()
        return f"ok: {', '.join(isolation.notes(version))}"

    def require(self) -> None:
        """Raises `DockerUnavailable` if the daemon cannot isolate sessions. A success is valid for 60 s."""
        if time.monotonic() < self._reported_until:
            return
        with translated_errors():
            info = self._docker.client.info()
        self._refuse(isolation.weaknesses(info, kernel_has_apparmor=_APPARMOR.exists()))
        self._reported_until = time.monotonic() + _VALID_SECONDS

    def require_of(self, container_id: str) -> None:
        """Raises `DockerUnavailable` if the processes of a container are not confined, and `ContainerFailed`
        if that cannot be seen. A success is valid for 60 s, for all containers."""
        if time.monotonic() < self._shown_until:
            return
        code, status = Inside(self._docker).run(container_id, ["cat", "/proc/self/status"])
        if code or not isolation.is_status(status):
            raise ContainerFailed(f"The session's /proc/self/status cannot be read: {status.strip()[:200]}")
        self._refuse(isolation.weaknesses_of_process(status))
        self._shown_until = time.monotonic() + _VALID_SECONDS

    def examine(self, container_id: str) -> None:
        """The same as `require_of`, of a container that a user can use. What its user can hinder is unknown
        then, and no error."""
        try:
            self.require_of(container_id)
        except DockerUnavailable:
            raise
        except GatewayError:
            pass

    def _refuse(self, found: Iterable[isolation.Weakness]) -> None:
        if problem := isolation.forbidden(list(found), self._allowed):
            raise DockerUnavailable(problem)
