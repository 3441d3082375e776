"""What sessions reach outside through the proxy: real Docker, real iptables, real Squid."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from docker.errors import NotFound
from docker.models.containers import Container
from pytest_mock import MockerFixture

from gateway.errors import ImageMissing, NetworkUnavailable
from gateway.repositories.docker.client import Docker
from gateway.repositories.docker.egress import Egress
from gateway.repositories.docker.network import Worknet
from tests.repositories.conftest import ADDRESS, HOST, NETWORK, SUBNET, printed

PROXY = f"http://{ADDRESS}:3128"
NAME = f"{NETWORK}-egress"
OPEN = ("mirror.test:8000", ".sub.test:8001")

EgressTo = Callable[..., Egress]


@pytest.fixture
def egress_to(docker: Docker, worknet: Worknet, tmp_path: Path) -> Iterator[EgressTo]:
    """`egress_to("pypi.org:443")`; all in one test are one gateway's, started with other settings."""

    def make(*hosts: str) -> Egress:
        return Egress(docker, NETWORK, SUBNET, hosts, tmp_path / "egress")

    yield make
    make().remove()


@pytest.fixture
def running(docker: Docker, worknet: Worknet) -> Iterator[Callable[..., Container]]:
    made = []

    def run(*command: str, network: str = NETWORK, names: tuple[str, ...] = ()) -> Container:
        container = docker.client.containers.create("gpu-workspace", list(command), network=network)
        made.append(container)
        joined = docker.client.networks.get(network)
        joined.disconnect(container)
        joined.connect(container, aliases=list(names))
        container.start()
        container.reload()
        return container

    yield run
    for container in made:
        container.remove(force=True)


def address(container: Container, network: str) -> str:
    return str(container.attrs["NetworkSettings"]["Networks"][network]["IPAddress"])


def serves(*ports: int) -> list[str]:
    each = [f"python3 -m http.server {port} &" for port in ports]
    return ["sh", "-c", " ".join([*each, "sleep 600"])]


def status(session: Container, url: str, *options: str) -> str:
    """What curl in the session is answered: `000` where nothing answers."""
    command = ["curl", "-s", "-o", "/dev/null", "-m", "5", "-w", "%{http_code}", "--retry", "5", "-x", PROXY]
    return printed(session, [*command, "--retry-connrefused", *options, url])


def test_a_session_reaches_what_is_named_and_nothing_else(
    egress_to: EgressTo, running: Callable[..., Container]
) -> None:
    egress = egress_to(*OPEN)
    egress.ensure()
    names = ("mirror.test", "a.sub.test", "other.test")
    mirror = address(running(*serves(8000, 8001), network=NAME, names=names), NAME)
    session, neighbour = running("sleep", "600"), running(*serves(2222))
    assert status(session, "http://mirror.test:8000/") == "200"
    assert status(session, "http://mirror.test:8000/", "--proxytunnel") == "200"
    assert status(session, "http://a.sub.test:8001/") == "200"
    others = ["mirror.test:8001", "a.sub.test:8000", "other.test:8000", "xmirror.test:8000", f"{mirror}:8000"]
    for other in [*others, f"{address(neighbour, NETWORK)}:2222", f"{HOST}:22", "127.0.0.1:3128"]:
        assert status(session, f"http://{other}/") == "403", other
    assert status(session, "http://mirror.test:8000/", "-x", "", "--retry", "0") == "000"
    assert status(session, f"http://{mirror}:8000/", "-x", "", "--retry", "0") == "000"


def test_the_proxy_opens_no_way_between_sessions(
    egress_to: EgressTo, running: Callable[..., Container]
) -> None:
    egress_to(*OPEN).ensure()
    session, neighbour = running("sleep", "600"), running(*serves(2222, 3128))
    for port in (2222, 3128):
        direct = ("-x", "", "--retry", "0", "-m", "1")
        assert status(session, f"http://{address(neighbour, NETWORK)}:{port}/", *direct) == "000"


def test_with_other_hosts_the_proxy_is_another_and_with_none_it_is_gone(
    docker: Docker, egress_to: EgressTo
) -> None:
    egress_to(*OPEN).ensure()
    first = docker.client.containers.get(NAME).id
    egress_to(*OPEN).ensure()
    assert docker.client.containers.get(NAME).id == first
    with pytest.raises(NetworkUnavailable):
        egress_to("pypi.org:443").describe()
    egress_to("pypi.org:443").ensure()
    assert docker.client.containers.get(NAME).id != first
    assert egress_to("pypi.org:443").describe() == "ok: pypi.org:443"
    with pytest.raises(NetworkUnavailable):
        egress_to().describe()
    docker.client.containers.get(NAME).remove(force=True)  # somebody is faster
    egress_to().ensure()
    with pytest.raises(NotFound):
        docker.client.containers.get(NAME)
    assert docker.client.networks.list(names=[f"^{NAME}$"]) == []
    rules = subprocess.run(["iptables", "-S"], capture_output=True, text=True, check=True).stdout
    assert f"GATEWAY-{NETWORK}-OUT" not in rules
    assert egress_to().describe() == "ok: none"


def test_a_proxy_that_was_killed_and_a_rule_that_was_flushed_are_made_again(
    docker: Docker, egress_to: EgressTo, running: Callable[..., Container]
) -> None:
    egress = egress_to(*OPEN)
    egress.ensure()
    running(*serves(8000), network=NAME)  # somebody's own, beside the proxy
    docker.client.containers.get(NAME).kill()
    with pytest.raises(NetworkUnavailable):
        egress.describe()
    egress.ensure()
    assert egress.describe() == f"ok: {', '.join(OPEN)}"
    subprocess.run(["iptables", "-F", f"GATEWAY-{NETWORK}-OUT"], check=True)
    with pytest.raises(NetworkUnavailable):
        egress.describe()
    egress.ensure()
    assert egress.describe().startswith("ok")


def test_the_proxy_is_as_hardened_as_a_session(docker: Docker, egress_to: EgressTo) -> None:
    egress_to(*OPEN).ensure()
    proxy = docker.client.containers.get(NAME).attrs
    assert proxy["Config"]["User"] == "13:13"
    host = proxy["HostConfig"]
    assert (host["CapDrop"], host["SecurityOpt"], host["ReadonlyRootfs"]) == (
        ["ALL"],
        ["no-new-privileges:true"],
        True,
    )
    assert [mount["RW"] for mount in proxy["Mounts"]] == [False]


def test_a_container_of_that_name_that_is_not_the_gateways_stays(
    docker: Docker, egress_to: EgressTo, running: Callable[..., Container]
) -> None:
    other = running("sleep", "600")
    other.rename(NAME)
    for egress in (egress_to(*OPEN), egress_to()):
        with pytest.raises(NetworkUnavailable):
            egress.ensure()
    other.reload()
    assert other.status == "running"
    other.rename(f"{NAME}-no-more")


def test_without_its_image_it_says_how_to_build_it(egress_to: EgressTo, mocker: MockerFixture) -> None:
    mocker.patch("gateway.repositories.docker.egress.IMAGE", "gpu-egress-proxy:none")
    with pytest.raises(ImageMissing, match="docker/build-images egress-proxy"):
        egress_to(*OPEN).ensure()
