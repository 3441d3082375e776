"""The way to Docker: one client a process, and its failures in the gateway's own words."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import docker
import requests
from docker.errors import APIError, DockerException, NotFound

from gateway.errors import AddressTaken, ContainerFailed, DiskFull, DockerUnavailable

NO_GPU_DRIVER = "could not select device driver"
_ADDRESS_TAKEN = "address already in use"
_TIMEOUT_SECONDS = 30


class Docker:
    """Hands out this process's client; a client made before a fork would share its sockets."""

    def __init__(self) -> None:
        self._pid = 0
        self._client: docker.DockerClient | None = None

    @property
    def client(self) -> docker.DockerClient:
        if self._client is None or self._pid != os.getpid():
            with translated_errors():
                self._client = docker.DockerClient.from_env(timeout=_TIMEOUT_SECONDS, max_pool_size=64)
            self._pid = os.getpid()
        return self._client

    @property
    def engine_id(self) -> str:
        """Stays the same for as long as the Engine keeps its containers."""
        with translated_errors():
            return str(self.client.info()["ID"])

    def up_since(self) -> datetime:
        """Since when the daemon has lost no containers by a restart: when it started, unless it kept them.

        It does not say so itself. Its network `bridge` is made anew at each start, but by one that finds
        containers alive under --live-restore (seen with 26.1: the same after a kill and after a clean
        restart). Where there is no such network (--bridge=none) this is when the server started, and a
        restart of the daemon alone cannot be told from containers that ended by themselves.
        """
        booted = datetime.fromtimestamp(_boot_time(), UTC)
        try:
            created = self.client.api.inspect_network("bridge")["Created"]
        except NotFound:
            return booted
        return max(booted, datetime.fromisoformat(created).astimezone(UTC))


def _boot_time() -> int:
    """Seconds since 1970."""
    lines = Path("/proc/stat").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("btime "))


@contextmanager
def translated_errors() -> Iterator[None]:
    """A hung or absent daemon raises `requests` errors, which are no `DockerException`; what the daemon
    itself refuses is both."""
    try:
        yield
    except APIError as error:
        explanation = str(error.explanation or error)
        if "no space left on device" in explanation:
            raise DiskFull(
                "The disk that Docker keeps its containers on is full; free some space."
            ) from error
        if _ADDRESS_TAKEN in explanation.lower():
            raise AddressTaken("Another container has the session's address; try again.") from error
        if NO_GPU_DRIVER in explanation:
            raise ContainerFailed(
                "Docker cannot attach GPUs; install the NVIDIA Container Toolkit and restart Docker."
            ) from error
        raise ContainerFailed(f"Docker refused: {explanation.strip()}") from error
    except requests.exceptions.Timeout as error:
        raise DockerUnavailable(
            f"Docker did not answer within {_TIMEOUT_SECONDS} s; see `systemctl status docker`."
        ) from error
    except requests.exceptions.RequestException as error:
        raise DockerUnavailable("Docker is out of reach; see `systemctl status docker`.") from error
    except DockerException as error:
        raise DockerUnavailable("Docker is out of reach; see `systemctl status docker`.") from error
