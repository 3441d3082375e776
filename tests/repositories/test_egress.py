"""What sessions reach outside through the proxy: real Docker, real iptables, real Squid."""

import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from docker.errors import NotFound
from docker.models.containers import Container
from pytest_mock import MockerFixture

from gateway.errors import ImageMissing, NetworkUnavailable
from gateway.repositories.docker.client import Docker
from gateway.repositories.docker.egress import Egress
from gateway.repositories.docker.network import Worknet
from gateway.repositories.squid import CONNECTIONS_OF_A_SESSION
from tests.repositories.conftest import ADDRESS, HOST, NETWORK, SUBNET, printed
from tests.whole_gateway import eventually, free_port

PROXY = f"http://{ADDRESS}:3128"
NAME = f"{NETWORK}-egress"
OPEN = ("mirror.test:8000", ".sub.test:8001")

# Docker takes the subnets of its networks from these, so the mirrors of the tests are in them.
POOLS = ("172.16.0.0/12", "192.168.0.0/16")

TUNNEL = ("--proxytunnel", "--write-out", "%{http_connect}")  # curl shows the denial of CONNECT only there

EgressTo = Callable[..., Egress]


@pytest.fixture
def egress_to(docker: Docker, worknet: Worknet, tmp_path: Path) -> Iterator[EgressTo]:
    """`egress_to("pypi.org:443")`; all in one test are one gateway's, started with other settings."""

    def make(*hosts: str, opened: Sequence[str] = POOLS) -> Egress:
        return Egress(docker, NETWORK, SUBNET, hosts, tmp_path / "egress", opened)

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


def test_a_named_host_at_a_private_address_is_denied_unless_its_subnet_is_opened(
    egress_to: EgressTo, running: Callable[..., Container]
) -> None:
    egress_to(*OPEN, opened=()).ensure()
    mirror = address(running(*serves(8000), network=NAME, names=("mirror.test",)), NAME)
    session = running("sleep", "600")
    for options in ((), TUNNEL):
        assert status(session, "http://mirror.test:8000/", *options) == "403"
    egress_to(*OPEN, opened=(f"{mirror}/32",)).ensure()
    assert status(session, "http://mirror.test:8000/") == "200"


@pytest.mark.parametrize(
    "target",
    ["127.0.0.1", "169.254.169.254", "100.100.100.200", "0.0.0.0", pytest.param(HOST, id="host")],
)
def test_a_named_host_at_loopback_metadata_or_in_the_sessions_network_is_denied(
    docker: Docker, egress_to: EgressTo, running: Callable[..., Container], target: str
) -> None:
    egress_to("named.test:3128").ensure()
    proxy = docker.client.containers.get(NAME)
    with open(proxy.attrs["HostsPath"], "a") as hosts:
        hosts.write(f"{target} named.test\n")
    session = running("sleep", "600")
    proxy.kill("HUP")  # Squid reads the file again
    eventually(lambda: status(session, "http://named.test:3128/") == "403")
    assert status(session, "http://named.test:3128/", *TUNNEL) == "403"


def connects(proxy: Container, target: str, port: int) -> bool:
    """As Squid would after an address of a name has changed."""
    return proxy.exec_run(["timeout", "3", "bash", "-c", f"exec 3<>/dev/tcp/{target}/{port}"]).exit_code == 0


def test_the_proxy_itself_connects_to_no_private_address(
    docker: Docker, egress_to: EgressTo, running: Callable[..., Container]
) -> None:
    egress_to(*OPEN, opened=()).ensure()
    proxy = docker.client.containers.get(NAME)
    mirror = address(running(*serves(8000), network=NAME), NAME)
    neighbour = address(running(*serves(2222)), NETWORK)
    egress_to(*OPEN, opened=(f"{mirror}/32",)).ensure()
    proxy = docker.client.containers.get(NAME)
    eventually(lambda: connects(proxy, mirror, 8000))
    assert not connects(proxy, neighbour, 2222)
    egress_to(*OPEN, opened=()).ensure()
    assert not connects(docker.client.containers.get(NAME), mirror, 8000)


def test_the_proxy_does_not_reach_the_host_at_any_of_its_addresses(
    docker: Docker, egress_to: EgressTo
) -> None:
    egress_to(*OPEN).ensure()
    proxy = docker.client.containers.get(NAME)
    bridge = str(proxy.attrs["NetworkSettings"]["Networks"][NAME]["Gateway"])
    public = "203.0.113.77"  # of the host, for this test
    subprocess.run(["ip", "address", "add", f"{public}/32", "dev", "lo"], check=True)
    try:
        with socket.create_server(("0.0.0.0", 0)) as service:
            port = service.getsockname()[1]
            assert not connects(proxy, public, port)
            assert connects(proxy, bridge, port), "an opened address may be the host's own"
            egress_to(*OPEN, opened=()).ensure()
            assert not connects(docker.client.containers.get(NAME), bridge, port)
    finally:
        subprocess.run(["ip", "address", "del", f"{public}/32", "dev", "lo"], check=True)


def test_a_proxy_that_docker_starts_again_reaches_no_private_address_either(
    docker: Docker, egress_to: EgressTo, running: Callable[..., Container]
) -> None:
    mirror_of = egress_to(*OPEN, opened=())
    mirror_of.ensure()
    mirror = address(running(*serves(8000), network=NAME), NAME)
    proxy = docker.client.containers.get(NAME)
    proxy.restart(timeout=1)  # its network namespace is a new one
    inside = ["nsenter", f"--net={docker.client.containers.get(NAME).attrs['NetworkSettings']['SandboxKey']}"]
    assert "gateway" not in subprocess.check_output([*inside, "nft", "list", "tables"], text=True)
    assert not connects(proxy, mirror, 8000)
    mirror_of.ensure()
    assert "gateway" in subprocess.check_output([*inside, "nft", "list", "tables"], text=True)


def test_the_proxy_reaches_no_port_that_the_host_publishes(docker: Docker, egress_to: EgressTo) -> None:
    egress_to(*OPEN, opened=()).ensure()
    public, port = "203.0.113.77", free_port()
    subprocess.run(["ip", "address", "add", f"{public}/32", "dev", "lo"], check=True)
    published = docker.client.containers.run(
        "gpu-workspace", serves(8000), ports={"8000/tcp": (public, port)}, detach=True
    )
    try:
        eventually(lambda: can_connect(public, port))
        assert not connects(docker.client.containers.get(NAME), public, port)
    finally:
        published.remove(force=True)
        subprocess.run(["ip", "address", "del", f"{public}/32", "dev", "lo"], check=True)


def can_connect(target: str, port: int) -> bool:
    try:
        socket.create_connection((target, port), timeout=1).close()
    except OSError:
        return False
    return True


HOLD = """
import socket, sys, time
held = []
for _ in range(1500):
    held.append(socket.create_connection((sys.argv[1], 3128)))
print("all", flush=True)
time.sleep(600)
"""


def test_idle_connections_of_one_session_leave_the_proxy_to_the_others(
    docker: Docker, egress_to: EgressTo, running: Callable[..., Container]
) -> None:
    egress_to(*OPEN).ensure()
    running(*serves(8000), network=NAME, names=("mirror.test",))
    session = running("sleep", "600")
    assert status(session, "http://mirror.test:8000/") == "200"
    attacker = running("python3", "-c", HOLD, ADDRESS)
    eventually(lambda: b"all" in attacker.logs())
    assert status(session, "http://mirror.test:8000/") == "200"
    assert status(session, "http://mirror.test:8000/", "--proxytunnel") == "200"
    proxy = docker.client.containers.get(NAME)
    table = printed(proxy, "cat /proc/net/tcp /proc/net/tcp6").splitlines()
    held = [line for line in table if line.split()[1].endswith(":0C38") and line.split()[3] == "01"]
    assert 0 < len(held) <= CONNECTIONS_OF_A_SESSION + 1


def test_only_sessions_use_the_proxy(egress_to: EgressTo, running: Callable[..., Container]) -> None:
    egress_to(*OPEN).ensure()
    running(*serves(8000), network=NAME, names=("mirror.test",))
    beside = running("sleep", "600", network=NAME)
    assert status(beside, "http://mirror.test:8000/", "-x", f"http://{NAME}:3128") == "403"


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
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
    assert f"gateway_{NETWORK.replace('-', '/')}/egress" not in tables
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
    namespace = docker.client.containers.get(NAME).attrs["NetworkSettings"]["SandboxKey"]
    for damage in (
        ["iptables", "-F", f"GATEWAY-{NETWORK}-OUT"],
        ["nft", "delete", "table", "inet", f"gateway_{NETWORK.replace('-', '/')}/egress"],
        ["nsenter", f"--net={namespace}", "nft", "delete", "table", "inet", "gateway"],
    ):
        subprocess.run(damage, check=True)
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
