"""The way of `--gpus device=UUID` without a GPU: a Docker daemon that finds the NVIDIA hook on its PATH.

Docker registers its `nvidia` device driver when that program exists as the daemon starts, so a stub of
that name exercises the whole path; and a daemon of the tests' own leaves the machine's alone.
"""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import docker as sdk
import pytest

from gateway.repositories.docker.client import Docker
from gateway.repositories.host import ContainerSpec
from tests.repositories.conftest import printed
from tests.repositories.specs import of_session
from tests.repositories.test_containers import docker_containers

NETWORK = "gwstub"


@pytest.fixture(scope="module")
def daemon_with_gpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address. The session image is loaded into it, a network of its own made."""
    directory = tmp_path_factory.mktemp("dockerd")
    hook = directory / "bin/nvidia-container-runtime-hook"
    hook.parent.mkdir()
    hook.write_text("#!/bin/sh\nexit 0\n")
    hook.chmod(0o755)
    address = f"unix://{directory}/docker.sock"
    with (
        open(directory / "dockerd.log", "wb") as log,
        subprocess.Popen(
            [
                "dockerd",
                f"--host={address}",
                f"--data-root={directory}/data",
                f"--exec-root={directory}/exec",
                f"--pidfile={directory}/pid",
                "--containerd-namespace=gwstub",
                "--containerd-plugins-namespace=gwstub-plugins",
                "--bridge=none",
                "--iptables=false",
            ],
            env=os.environ | {"PATH": f"{hook.parent}:{os.environ['PATH']}"},
            stdout=log,
            stderr=log,
        ) as daemon,
    ):
        try:
            client = _connected(address, directory / "dockerd.log")
            subprocess.run(
                f"docker save gpu-workspace | docker --host {address} load", shell=True, check=True
            )
            client.networks.create(
                NETWORK,
                options={"com.docker.network.bridge.name": NETWORK},
                ipam=sdk.types.IPAMConfig(pool_configs=[sdk.types.IPAMPool(subnet="10.212.0.0/24")]),
            )
            yield address
            for container in client.containers.list(all=True):
                container.remove(force=True)
            client.networks.get(NETWORK).remove()
            client.close()
        finally:
            daemon.terminate()
            daemon.wait(timeout=30)


def _connected(address: str, log: Path) -> sdk.DockerClient:
    deadline = time.monotonic() + 30
    while True:
        try:
            return sdk.DockerClient(base_url=address)
        except sdk.errors.DockerException:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)


def test_a_container_gets_its_slice_as_the_docker_command_line_would_give_it(
    daemon_with_gpus: str, spec: ContainerSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", daemon_with_gpus)
    docker = Docker()
    containers = docker_containers(docker, network=NETWORK, simulated_gpus=False)
    found = docker.client.containers.get(containers.run(spec))
    [request] = found.attrs["HostConfig"]["DeviceRequests"]
    assert (request["Driver"], request["DeviceIDs"]) == ("nvidia", [spec.gpu_uuid])
    assert printed(found, "sh -c 'echo $NVIDIA_VISIBLE_DEVICES'").strip() == spec.gpu_uuid
    containers.remove(spec.request.session_id)


def test_simulated_gpus_are_asked_for_where_the_daemon_knows_how(
    daemon_with_gpus: str, spec: ContainerSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", daemon_with_gpus)
    docker = Docker()
    containers = docker_containers(docker, network=NETWORK)
    container_id = containers.run(of_session(spec, "simulated"))
    assert docker.client.containers.get(container_id).attrs["HostConfig"]["DeviceRequests"]
    containers.remove("simulated")
