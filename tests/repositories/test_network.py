"""The sessions' network on real Docker and real iptables: what is open, what is closed."""

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from docker.types import IPAMConfig, IPAMPool

from gateway.errors import NetworkUnavailable
from gateway.repositories.docker.client import Docker
from gateway.repositories.docker.network import Worknet
from tests import own
from tests.repositories.conftest import HOST, NETWORK, SUBNET

CHAIN = f"GATEWAY-{NETWORK}"


def iptables(*arguments: str) -> None:
    subprocess.run(["iptables", "-w", "5", *arguments], check=True)


@pytest.fixture
def two_sessions(docker: Docker, worknet: Worknet) -> Iterator[list[str]]:
    """Two containers on the network, each serving TCP on port 2222; their addresses."""
    serve = ["python3", "-m", "http.server", "2222"]
    running = [
        docker.client.containers.run(
            "gpu-workspace", serve, network=NETWORK, detach=True, name=f"{NETWORK}-{number}"
        )
        for number in (1, 2)
    ]
    for container in running:
        container.reload()
    yield [container.attrs["NetworkSettings"]["Networks"][NETWORK]["IPAddress"] for container in running]
    for container in running:
        container.remove(force=True)


def reaches(docker: Docker, target: str, port: int) -> bool:
    connect = f"import socket; socket.create_connection(('{target}', {port}), timeout=1)"
    return docker.client.containers.get(f"{NETWORK}-1").exec_run(["python3", "-c", connect]).exit_code == 0


def test_a_session_reaches_neither_another_session_nor_the_host_nor_the_outside(
    docker: Docker, two_sessions: list[str]
) -> None:
    import socket

    with socket.create_server(("0.0.0.0", 0)) as service:
        port = service.getsockname()[1]
        addresses = subprocess.check_output(["hostname", "-I"], text=True).split()
        assert reaches(docker, two_sessions[0], 2222), "the probe itself works"
        assert not reaches(docker, two_sessions[1], 2222)
        for address in [*addresses, HOST]:
            if ":" not in address:
                assert not reaches(docker, address, port), address
        assert not reaches(docker, "192.0.2.1", 80)


def test_the_host_reaches_a_session(docker: Docker, two_sessions: list[str]) -> None:
    import socket
    import time

    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection((two_sessions[0], 2222), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < deadline


def test_making_it_again_changes_nothing(docker: Docker, worknet: Worknet) -> None:
    before = docker.client.networks.get(NETWORK).id
    worknet.ensure()
    assert docker.client.networks.get(NETWORK).id == before
    rules = subprocess.check_output(["iptables", "-S"], text=True)
    assert rules.count(f"-A INPUT -j {CHAIN}\n") == 1
    assert rules.count(f"-A {CHAIN} ") == 1


def test_flushed_rules_are_noticed_and_set_again(worknet: Worknet) -> None:
    iptables("-F", CHAIN)
    with pytest.raises(NetworkUnavailable, match="chain"):
        worknet.check()
    worknet.ensure()
    worknet.check()
    iptables("-D", "INPUT", "-j", CHAIN)
    with pytest.raises(NetworkUnavailable, match="chain"):
        worknet.check()
    worknet.ensure()
    worknet.check()


def test_a_network_of_that_name_that_is_open_is_refused(docker: Docker) -> None:
    name = f"{NETWORK}-open"
    docker.client.networks.create(name)
    try:
        with pytest.raises(NetworkUnavailable, match=f"reaches the outside.*docker network rm {name}"):
            Worknet(docker, name, own.subnet(213)).ensure()
    finally:
        docker.client.networks.get(name).remove()
        for arguments in (["-D", "INPUT", "-j"], ["-F"], ["-X"]):
            iptables(*arguments, f"GATEWAY-{name}")


def test_a_network_of_that_name_that_has_ipv6_is_refused(docker: Docker) -> None:
    name = f"{NETWORK}-ipv6"
    pools = [IPAMPool(subnet=own.ipv6_subnet())]
    docker.client.networks.create(name, internal=True, enable_ipv6=True, ipam=IPAMConfig(pool_configs=pools))
    try:
        with pytest.raises(NetworkUnavailable, match=f"it has IPv6.*docker network rm {name}"):
            Worknet(docker, name, own.subnet(213)).check()
    finally:
        docker.client.networks.get(name).remove()


def test_a_subnet_that_is_in_use_is_named(docker: Docker, worknet: Worknet) -> None:
    with pytest.raises(NetworkUnavailable, match="--subnet"):
        Worknet(docker, f"{NETWORK}-twin", SUBNET).ensure()


def test_rules_that_cannot_be_looked_at_are_not_taken_for_missing(
    worknet: Worknet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 4, stderr="Permission denied (you must be root)\n")

    monkeypatch.setattr(subprocess, "run", refused)
    with pytest.raises(NetworkUnavailable, match="cannot look.*you must be root"):
        worknet.check()
