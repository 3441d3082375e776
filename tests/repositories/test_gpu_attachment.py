"""The way of `--gpus device=UUID` without a GPU: a Docker daemon that finds the NVIDIA hook on its PATH.

Docker registers its `nvidia` device driver when that program exists as the daemon starts, so a stub of
that name exercises the whole path; and a daemon of the tests' own leaves the machine's alone.
"""

import os
from collections.abc import Iterator

import pytest
from docker.types import IPAMConfig, IPAMPool

from gateway.repositories.docker.client import Docker
from gateway.repositories.host_parts import ContainerSpec
from tests.own_docker import own_docker
from tests.repositories.conftest import NETWORK, SUBNET, printed
from tests.repositories.containers.conftest import docker_containers
from tests.repositories.specs import of_session


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    """A daemon that has the hook, a network as sessions have it, and an image with nothing but a shell."""
    hook = tmp_path_factory.mktemp("bin") / "nvidia-container-runtime-hook"
    hook.write_text("#!/bin/sh\nexit 0\n")
    hook.chmod(0o755)
    with own_docker(PATH=f"{hook.parent}:{os.environ['PATH']}") as daemon:
        daemon.load_shell("gpu-workspace", source="gpu-workspace")
        docker = Docker()
        ipam = IPAMConfig(pool_configs=[IPAMPool(subnet=SUBNET)])
        docker.client.networks.create(NETWORK, internal=True, ipam=ipam)
        yield docker
        docker.client.close()


def test_a_container_gets_its_slice_as_the_docker_command_line_would_give_it(
    docker: Docker, spec: ContainerSpec
) -> None:
    containers = docker_containers(docker, simulated_gpus=False)
    found = docker.client.containers.get(containers.run(spec))
    [request] = found.attrs["HostConfig"]["DeviceRequests"]
    assert (request["Driver"], request["DeviceIDs"]) == ("nvidia", [spec.gpu_uuid])
    assert printed(found, "sh -c 'echo $NVIDIA_VISIBLE_DEVICES'").strip() == spec.gpu_uuid
    containers.remove(spec.request.session_id)


def test_simulated_gpus_are_asked_for_where_the_daemon_knows_how(docker: Docker, spec: ContainerSpec) -> None:
    containers = docker_containers(docker)
    container_id = containers.run(of_session(spec, "simulated"))
    assert docker.client.containers.get(container_id).attrs["HostConfig"]["DeviceRequests"]
    containers.remove("simulated")
