"""What other programs, other gateways and administrators do to containers."""

import dataclasses
import subprocess
import threading
from contextlib import suppress

import pytest
from docker.types import EndpointConfig

from gateway.domain.states import Reason
from gateway.errors import AddressTaken, ContainerFailed
from gateway.repositories.docker import labels
from gateway.repositories.docker.client import Docker
from gateway.repositories.docker.containers import DockerContainers
from gateway.repositories.docker.network import Worknet
from gateway.repositories.host_parts import ContainerSpec
from tests import own
from tests.repositories.conftest import NETWORK, SPARE, USER
from tests.repositories.containers.conftest import LIMITS, docker_containers, inside, of, one
from tests.whole_gateway import eventually


def test_a_container_that_somebody_else_gave_the_name_is_left_alone(
    real: DockerContainers, docker: Docker, spec: ContainerSpec
) -> None:
    stranger = docker.client.containers.create("gpu-workspace", name=f"{USER}-container")
    try:
        with pytest.raises(ContainerFailed, match="stands in the way"):
            real.run(spec)
        stranger.reload()
    finally:
        stranger.remove(force=True)


def test_two_gateways_on_one_docker_may_serve_the_same_user(
    real: DockerContainers, docker: Docker, spec: ContainerSpec
) -> None:
    marks = {labels.SESSION: "of-another-gateway", labels.NETWORK: "another-gateways"}
    others = docker.client.containers.create("gpu-workspace", name=f"{USER}-container", labels=marks)
    try:
        for _ in range(2):  # the second time an orphan of this gateway has the longer name
            found = docker.client.containers.get(real.run(spec))
            assert found.name == f"{USER}-container-{NETWORK}"
        others.reload()
    finally:
        others.remove(force=True)


def test_containers_of_another_gateway_on_the_same_docker_are_neither_seen_nor_removed(
    real: DockerContainers, docker: Docker, spec: ContainerSpec
) -> None:
    other = docker_containers(docker, network="another-gateways")
    container_id = real.run(spec)
    assert other.list() == []
    other.remove(spec.request.session_id)
    assert of(real, spec) == [(container_id, False)]


def test_one_of_many_creates_under_one_name_at_once_wins(real: DockerContainers, spec: ContainerSpec) -> None:
    real.run(spec)
    threads = [threading.Thread(target=real.remove, args=(spec.request.session_id,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert of(real, spec) == []


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["kill"], Reason.KILLED),
        (["stop", "--time", "1"], Reason.STOPPED),
        (["restart", "--time", "1"], Reason.RESTARTED),
        (["exec", "kill", "1"], Reason.USER_EXIT),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else value,
)
def test_whoever_ends_a_container_gives_it_its_reason(
    real: DockerContainers, spec: ContainerSpec, command: list[str], reason: Reason
) -> None:
    container_id = real.run(spec)
    real.wait_for_ssh(container_id, spec.address)
    assert not one(real, spec).ended
    verb, *arguments = command
    if verb == "exec":
        arguments = [container_id, "/bin/sh", "-c", " ".join(arguments)]
    else:
        arguments = [*arguments, container_id]
    subprocess.run(["docker", verb, *arguments], check=True, capture_output=True)
    ended = eventually(lambda: found if (found := one(real, spec)).ended else None)
    assert ended.reason is reason


def test_a_container_that_the_kernel_killed_for_its_memory_says_so(
    docker: Docker, worknet: Worknet, spec: ContainerSpec
) -> None:
    """Its first process alone uses memory, so that the kernel has no other to choose."""
    hog = spec.files / "etc/start"
    hog.chmod(0o644)
    hog.write_text("x=x; while :; do x=$x$x; done\n")
    containers = docker_containers(docker, limits=dataclasses.replace(LIMITS, memory="32m"))
    try:
        container_id = ""
        with suppress(ContainerFailed):  # it may be killed before it is looked at
            container_id = containers.run(spec)
        assert container_id is not None
        ended = eventually(lambda: found if (found := one(containers, spec)).ended else None)
        assert ended.reason is Reason.OUT_OF_MEMORY
    finally:
        containers.remove(spec.request.session_id)


def test_a_container_that_somebody_connected_elsewhere_is_seen_and_repaired(
    real: DockerContainers, docker: Docker, spec: ContainerSpec
) -> None:
    container_id = real.run(spec)
    real.wait_for_ssh(container_id, spec.address)
    assert one(real, spec).deviations == []
    other = own.name("other")
    docker.client.networks.create(other)
    try:
        docker.client.networks.get(other).connect(container_id)
        outside = docker.client.networks.get(other).attrs["IPAM"]["Config"][0]["Gateway"]
        connect = f"timeout 3 python3 -c \"import socket; socket.create_connection(('{outside}', 9), 2)\""
        assert "No route to host" in inside(docker, container_id, connect)[1], "its own rules hold there too"
        assert [str(each) for each in one(real, spec).deviations] == [
            f"It is connected to the network {other}."
        ]
        real.repair(spec.request.session_id)
        assert one(real, spec).deviations == []
    finally:
        docker.client.networks.get(other).remove()


def test_a_container_that_was_disconnected_or_has_another_address_is_connected_as_planned(
    real: DockerContainers, docker: Docker, spec: ContainerSpec
) -> None:
    container_id = real.run(spec)
    real.wait_for_ssh(container_id, spec.address)
    network = docker.client.networks.get(NETWORK)
    network.disconnect(container_id)
    assert [str(each) for each in one(real, spec).deviations] == [
        f"It is not connected to the network {NETWORK}."
    ]
    real.repair(spec.request.session_id)
    assert one(real, spec).deviations == []
    real.wait_for_ssh(container_id, spec.address)
    network.disconnect(container_id)
    network.connect(container_id, ipv4_address=SPARE[0])
    assert [str(each) for each in one(real, spec).deviations] == [
        f"Its address is {SPARE[0]}, not {spec.address}."
    ]
    real.repair(spec.request.session_id)
    assert one(real, spec).deviations == []
    real.wait_for_ssh(container_id, spec.address)


def test_a_pause_other_limits_and_missing_rules_are_seen(
    docker: Docker, real: DockerContainers, spec: ContainerSpec
) -> None:
    container_id = real.run(spec)
    container = docker.client.containers.get(container_id)
    container.pause()
    assert [str(each) for each in one(real, spec).deviations] == [
        "Its container is paused: run `docker unpause`."
    ]
    container.unpause()
    container.update(mem_limit="1g", memswap_limit="1g")
    assert [str(each) for each in one(real, spec).deviations] == [
        f"Its limit Memory is {2**30}, not {2**29}.",
        f"Its limit MemorySwap is {2**30}, not {2**29}.",
    ]
    container.update(mem_limit="512m", memswap_limit="512m")
    inside_of = ["nsenter", f"--net={container.attrs['NetworkSettings']['SandboxKey']}"]
    subprocess.run([*inside_of, "nft", "flush", "ruleset"], check=True)
    another_process = docker_containers(docker)
    assert [str(each) for each in one(another_process, spec).deviations] == [
        "The rules in its network namespace are missing."
    ]
    another_process.repair(spec.request.session_id)
    assert one(docker_containers(docker), spec).deviations == []


def test_an_address_that_another_container_holds_is_reported_as_taken(
    real: DockerContainers, docker: Docker, spec: ContainerSpec
) -> None:
    endpoint = {NETWORK: EndpointConfig("1.44", ipv4_address=spec.address)}
    foreign = docker.client.containers.run(
        "gpu-workspace", ["sleep", "60"], network=NETWORK, networking_config=endpoint, detach=True
    )
    try:
        with pytest.raises(AddressTaken):
            real.run(spec)
    finally:
        foreign.remove(force=True)
