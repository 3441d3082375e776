"""The start of a container: the wait for its sshd, and its last words if it ends."""

import socket
import time

from docker.errors import NotFound

from gateway.domain.plan import SSH_PORT
from gateway.errors import ContainerFailed
from gateway.repositories.docker.client import Docker, translated_errors
from gateway.repositories.docker.inspection import ENDED

_BANNER_POLL_SECONDS = 0.005
_LIVENESS_POLL_SECONDS = 0.25


def wait_for_sshd(docker: Docker, container_id: str, address: str, timeout_seconds: float) -> None:
    """Return once the container's sshd has sent its banner. Raises `ContainerFailed` if it does not."""
    now = time.monotonic()
    deadline, next_check = now + timeout_seconds, now + _LIVENESS_POLL_SECONDS
    while not _sends_ssh_banner(address):
        if (now := time.monotonic()) > deadline:
            raise ContainerFailed(f"The session's sshd did not answer within {timeout_seconds:g} s.")
        if now > next_check:
            require_alive(docker, container_id)
            next_check = now + _LIVENESS_POLL_SECONDS
        time.sleep(_BANNER_POLL_SECONDS)


def require_alive(docker: Docker, container_id: str) -> None:
    """Raises `ContainerFailed` with the end of the container's log if the container has ended."""
    with translated_errors():
        try:
            container = docker.client.containers.get(container_id)
        except NotFound:
            raise ContainerFailed("The session's container vanished while it started.") from None
        if container.status in ENDED:
            output = container.logs(tail=3).decode(errors="replace").strip()
            raise ContainerFailed(
                f"The session's container stopped while it started: {output or 'it printed nothing'}"
            )


def _sends_ssh_banner(address: str) -> bool:
    try:
        with socket.create_connection((address, SSH_PORT), timeout=1) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False
