"""The connection to Docker: one client for each process, and Docker's errors as the gateway's errors."""

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
    """Provides the client of this process. A client from before a fork would share its sockets."""

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
        """The id of the Engine, which is the same for as long as the Engine keeps its containers."""
        with translated_errors():
            return str(self.client.info()["ID"])

    def up_since(self) -> datetime:
        """Return the time of the last daemon start that ended the containers, in UTC.

        Docker does not report this time. The daemon creates its network `bridge` again at each start, except
        at a start with --live-restore that finds running containers (observed with 26.1, after a kill and
        after a clean restart). Without this network (--bridge=none) the result is the time of the server's
        boot. A restart of the daemon alone then has the same effect as containers that ended by themselves.
        """
        boot_time = datetime.fromtimestamp(_boot_time(), UTC)
        try:
            created = self.client.api.inspect_network("bridge")["Created"]
        except NotFound:
            return boot_time
        return max(boot_time, datetime.fromisoformat(created).astimezone(UTC))


def _boot_time() -> int:
    """Seconds since 1970."""
    lines = Path("/proc/stat").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("btime "))


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raise the gateway's errors in place of Docker's and of `requests`.

    A daemon that hangs or does not run raises an error of `requests`, which is not a `DockerException`. An
    error that the daemon itself reports is of both types.
    """
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
