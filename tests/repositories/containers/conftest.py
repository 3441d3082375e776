"""Containers of sessions in real Docker."""

import os
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.domain.observation import Container as ObservedContainer
from gateway.repositories.docker.client import Docker
from gateway.repositories.docker.containers import DockerContainers
from gateway.repositories.docker.limits import Limits
from gateway.repositories.docker.network import Worknet
from gateway.repositories.host_parts import Containers, ContainerSpec
from tests.fakes.containers import FakeContainers
from tests.repositories.conftest import NETWORK

LIMITS = Limits(memory="512m", cpus=1, pids=64, open_files=4096, shm="64m", tmp="32m", read_only_root=True)
NO_TARGETS = ("neighbours", "neighbour_sessions", "users", "hosts", "links", "ports")


def docker_containers(docker: Docker, **changes: Any) -> DockerContainers:
    options: dict[str, Any] = {
        "image": os.environ.get("GATEWAY_IMAGE", "gpu-workspace"),
        "network": NETWORK,
        "limits": LIMITS,
        "start_timeout_seconds": 20,
        "simulated_gpus": True,
        "opens_gpu": lambda *_: True,
        "deployment": lambda: "this",
    }
    return DockerContainers(docker, **options | changes)


@pytest.fixture
def real(docker: Docker, worknet: Worknet, spec: ContainerSpec) -> Iterator[DockerContainers]:
    containers = docker_containers(docker)
    yield containers
    for left in containers.list():
        if left.session_id == spec.request.session_id:
            containers.remove(left.session_id)


@pytest.fixture(params=["fake", "docker"])
def containers(request: pytest.FixtureRequest) -> Containers:
    return FakeContainers() if request.param == "fake" else request.getfixturevalue("real")


def of(containers: Containers, spec: ContainerSpec) -> list[tuple[str, bool]]:
    return [
        (found.id, found.ended) for found in containers.list() if found.session_id == spec.request.session_id
    ]


def inside(docker: Docker, container_id: str, command: str) -> tuple[int, str]:
    found = docker.client.containers.get(container_id)
    code, output = found.exec_run(["sh", "-c", command])
    assert code is not None
    assert isinstance(output, bytes)
    return code, output.decode()


def one(containers: DockerContainers, spec: ContainerSpec) -> ObservedContainer:
    [found] = [each for each in containers.list() if each.session_id == spec.request.session_id]
    return found
