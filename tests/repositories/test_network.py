"""The sessions' network on real Docker and a real firewall: what is closed, and to whom it is open."""

import json
import socket
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from docker.models.containers import Container
from docker.types import EndpointConfig, IPAMConfig, IPAMPool

from gateway.errors import NetworkUnavailable
from gateway.repositories.docker import bridge_rules, subnets
from gateway.repositories.docker import network as network_module
from gateway.repositories.docker.client import Docker
from gateway.repositories.docker.network import Worknet
from gateway.repositories.docker.packets import open_paths
from tests import own
from tests.repositories.conftest import HOST, NETWORK, SPARE, SUBNET
from tests.whole_gateway import eventually

TABLE = f"gateway_{NETWORK.replace('-', '/')}"
NOBODY = 65533


def command(*arguments: str, check: bool = True) -> str:
    return subprocess.run(arguments, check=check, capture_output=True, text=True).stdout


@pytest.fixture
def sessions(docker: Docker, worknet: Worknet) -> Iterator[list[Container]]:
    """Two containers on the network, each serving TCP on port 2222. They have no rules of their own."""
    worknet.ensure()
    serve = ["python3", "-m", "http.server", "2222"]
    running = [
        docker.client.containers.run(
            "gpu-workspace",
            serve,
            network=NETWORK,
            networking_config={
                NETWORK: EndpointConfig("1.44", ipv4_address=str(ip_address(HOST) + 10 + number))
            },
            detach=True,
            name=f"{NETWORK}-{number}",
        )
        for number in (1, 2)
    ]
    for container in running:
        container.reload()
        eventually(lambda: connects(address(container)))  # noqa: B023 (called at once)
    yield running
    for container in running:
        container.remove(force=True)


def address(container: Container) -> str:
    return str(container.attrs["NetworkSettings"]["Networks"][NETWORK]["IPAddress"])


def connects(target: str, port: int = 2222) -> bool:
    """From the host, as root."""
    try:
        socket.create_connection((target, port), timeout=1).close()
    except OSError:
        return False
    return True


def connects_as(uid: int, target: str) -> bool:
    curl = ["curl", "--silent", "--noproxy", "*", "--max-time", "1", "--output", "/dev/null"]
    user = ["setpriv", f"--reuid={uid}", "--clear-groups"]
    return subprocess.run([*user, *curl, f"http://{target}:2222/"], check=False).returncode == 0


def reaches(session: Container, target: str, port: int) -> bool:
    connect = f"import socket; socket.create_connection(('{target}', {port}), timeout=1)"
    return session.exec_run(["python3", "-c", connect]).exit_code == 0


def test_a_session_reaches_neither_another_session_nor_the_host_nor_the_outside(
    sessions: list[Container],
) -> None:
    session, neighbour = sessions
    with socket.create_server(("0.0.0.0", 0)) as service:
        port = service.getsockname()[1]
        addresses = subprocess.check_output(["hostname", "-I"], text=True).split()
        assert reaches(session, address(session), 2222), "the attempt itself works"
        assert not reaches(session, address(neighbour), 2222)
        for target in [*addresses, HOST]:
            if ":" not in target:
                assert not reaches(session, target, port), target
        assert not reaches(session, "192.0.2.1", 80)


def test_a_neighbour_does_not_answer_arp(sessions: list[Container]) -> None:
    session, neighbour = sessions
    reaches(session, address(neighbour), 2222)
    reaches(session, HOST, 9)
    table = session.exec_run("cat /proc/net/arp").output
    assert isinstance(table, bytes)
    entries = [line.split() for line in table.decode().splitlines()]
    complete = {fields[0] for fields in entries[1:] if fields[2] != "0x0"}
    assert complete == {HOST}, "only the host's address is resolved"


def test_rules_of_others_that_accept_everything_open_nothing(sessions: list[Container]) -> None:
    session, neighbour = sessions
    accepting = [
        ["INPUT", "-i", NETWORK, "-j", "ACCEPT"],
        ["FORWARD", "-i", NETWORK, "-j", "ACCEPT"],
        ["FORWARD", "-o", NETWORK, "-j", "ACCEPT"],
    ]
    for chain, *rule in accepting:
        command("iptables", "-w", "5", "-I", chain, "1", *rule)
    try:
        with socket.create_server((HOST, 0)) as service:
            assert not reaches(session, HOST, service.getsockname()[1])
        assert not reaches(session, address(neighbour), 2222)
        assert not reaches(session, "192.0.2.1", 80)
        assert open_paths(NETWORK, HOST, SPARE, [address(each) for each in sessions]) == []
    finally:
        for rule in accepting:
            command("iptables", "-w", "5", "-D", *rule)


def test_only_root_and_the_router_reach_in_from_the_host(
    docker: Docker, worknet: Worknet, sessions: list[Container]
) -> None:
    target = address(sessions[0])
    assert connects(target)
    assert not connects_as(NOBODY, target)
    try:
        Worknet(docker, NETWORK, SUBNET, router_uids=lambda: {0, NOBODY}).ensure()
        assert connects_as(NOBODY, target)
        assert not connects_as(NOBODY - 1, target)
    finally:
        worknet.ensure()
    assert not connects_as(NOBODY, target), "another set of users replaces the rules"


def test_ensuring_it_again_changes_nothing(docker: Docker, worknet: Worknet) -> None:
    before = docker.client.networks.get(NETWORK).id, command("nft", "-a", "list", "table", "inet", TABLE)
    worknet.ensure()
    after = docker.client.networks.get(NETWORK).id, command("nft", "-a", "list", "table", "inet", TABLE)
    assert after == before


@pytest.mark.parametrize(
    "damage",
    [
        "flush chain inet {table} input",
        "flush chain inet {table} forward",
        "delete chain bridge {table} forward",
        "delete table inet {table}",
        "delete table bridge {table}",
    ],
)
def test_a_table_that_is_incomplete_is_noticed_and_loaded_again(worknet: Worknet, damage: str) -> None:
    worknet.ensure()
    command("nft", *damage.format(table=TABLE).split())
    with pytest.raises(NetworkUnavailable, match=f"nftables table {TABLE} is incomplete"):
        worknet.check()
    worknet.ensure()
    worknet.check()


def test_test_packets_show_what_is_open(worknet: Worknet, sessions: list[Container]) -> None:
    addresses = [address(each) for each in sessions]
    assert open_paths(NETWORK, HOST, SPARE, addresses) == []
    command("nft", "delete", "table", "bridge", TABLE)
    command("nft", "delete", "table", "inet", TABLE)
    found = open_paths(NETWORK, HOST, SPARE, addresses)
    worknet.ensure()
    assert found == [
        "sessions reach the host",
        "sessions receive each other's ARP requests",
        *[f"the session at {each} answers its neighbours" for each in sorted(addresses)],
    ]
    assert not [device for device in Path("/sys/class/net").iterdir() if device.name.startswith("gwpacket")]


def test_rules_that_are_listed_but_have_no_effect_are_noticed(
    docker: Docker, worknet: Worknet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All rules are there, but they match another interface and another subnet."""
    worknet.ensure()
    text = bridge_rules._TABLES
    for name in ("{bridge}", "{subnet}"):
        text = text.replace(name, {"{bridge}": "gwother", "{subnet}": own.subnet(213)}[name])
    monkeypatch.setattr(bridge_rules, "_TABLES", text)
    with pytest.raises(NetworkUnavailable, match="open, as test packets show: sessions reach the host"):
        Worknet(docker, NETWORK, SUBNET).ensure()
    monkeypatch.undo()
    worknet.ensure()


def test_without_the_means_to_send_a_packet_it_says_what_it_needs(
    docker: Docker, worknet: Worknet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.repositories.docker.packets._DEVICE", "/dev/net/none")
    with pytest.raises(NetworkUnavailable, match="needs /dev/net/tun and CAP_NET_ADMIN"):
        Worknet(docker, NETWORK, SUBNET).ensure()


def test_a_network_of_that_name_that_is_open_is_refused(docker: Docker) -> None:
    name = f"{NETWORK}-open"
    docker.client.networks.create(name)
    refused = Worknet(docker, name, own.subnet(213))
    try:
        with pytest.raises(NetworkUnavailable, match=f"reaches the outside.*docker network rm {name}"):
            refused.ensure()
    finally:
        refused.remove()


def test_a_network_of_that_name_that_has_ipv6_is_refused(docker: Docker) -> None:
    name = f"{NETWORK}-ipv6"
    pools = [IPAMPool(subnet=own.ipv6_subnet())]
    docker.client.networks.create(name, internal=True, enable_ipv6=True, ipam=IPAMConfig(pool_configs=pools))
    try:
        with pytest.raises(NetworkUnavailable, match=f"it has IPv6.*docker network rm {name}"):
            Worknet(docker, name, own.subnet(213)).check()
    finally:
        docker.client.networks.get(name).remove()


def test_without_bridge_filtering_it_is_refused(
    worknet: Worknet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "switch").write_text("0\n")
    monkeypatch.setattr(network_module, "_BRIDGE_NETFILTER", tmp_path / "switch")
    with pytest.raises(NetworkUnavailable, match=r"sysctl -w net\.bridge\.bridge-nf-call-iptables=1"):
        worknet.ensure()


def lan() -> str:
    """A network that this host is connected to, and no bridge such as those of Docker. The one by which it
    reaches others comes first: networks of other tests come and go."""
    ways = {way["dev"] for way in json.loads(command("ip", "-json", "-4", "route", "show", "default"))}
    routes = json.loads(command("ip", "-json", "-4", "route", "show", "scope", "link", "table", "main"))
    found = [route for route in routes if not Path(f"/sys/class/net/{route['dev']}/bridge").exists()]
    return str(max(found, key=lambda route: route["dev"] in ways)["dst"])


@pytest.mark.parametrize(
    ("subnet", "clash"),
    [
        (SUBNET, f"{SUBNET}, Docker's network {NETWORK}"),
        ("10.212.0.0/16", "Docker's network"),
        ("172.29.0.0/24", "172.29.0.0/16, from which Docker takes subnets"),
        ("192.168.250.0/24", "192.168.0.0/16, "),
        (lan(), f"{lan()}, the network of"),
        (str(ip_network(lan()).supernet()), f"{lan()}, the network of"),
    ],
    ids=["own", "larger", "default pool", "other pool", "host", "around the host"],
)
def test_a_subnet_that_is_in_use_is_refused_and_the_clash_is_named(
    docker: Docker, worknet: Worknet, subnet: str, clash: str
) -> None:
    twin = Worknet(docker, f"{NETWORK}-twin", subnet)
    for act in (twin.require_free_subnet, twin.ensure):
        with pytest.raises(NetworkUnavailable, match=f"overlaps .*{clash}.*--subnet"):
            act()
    assert not docker.client.networks.list(names=[f"^{NETWORK}-twin$"])


def test_the_subnet_of_a_network_that_exists_is_its_own(worknet: Worknet) -> None:
    worknet.require_free_subnet()


def test_a_host_that_joins_a_network_with_the_sessions_addresses_is_noticed(
    docker: Docker, worknet: Worknet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As a laptop does that finds such a network by DHCP."""
    numbers = [f"{int.from_bytes(ip_network(SUBNET)[0].packed, 'little'):08X}", "00FFFFFF"]
    route = ["wlan0", numbers[0], "00000000", "0001", "0", "0", "0", numbers[1], "0", "0", "0"]
    (tmp_path / "route").write_text("Iface\tDestination\n" + "\t".join(route) + "\n")
    monkeypatch.setattr(subnets, "_ROUTES", tmp_path / "route")
    with pytest.raises(NetworkUnavailable, match=f"overlaps {SUBNET}, the network of wlan0"):
        worknet.check()


def test_rules_that_cannot_be_listed_are_not_taken_for_missing(
    docker: Docker, worknet: Worknet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 1, stdout="", stderr="Operation not permitted (be root)\n")

    monkeypatch.setattr(subprocess, "run", refused)
    with pytest.raises(NetworkUnavailable, match="cannot list.*be root"):
        Worknet(docker, NETWORK, SUBNET).check()


def test_a_missing_program_is_named(
    docker: Docker, worknet: Worknet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(NetworkUnavailable, match="nft is missing: install the packages nftables"):
        Worknet(docker, NETWORK, SUBNET).check()


def test_addresses_that_containers_hold_and_docker_refused_are_not_offered(
    worknet: Worknet, sessions: list[Container]
) -> None:
    held = {address(each) for each in sessions}
    assert held <= set(worknet.ensure())
    worknet.avoid(SPARE[0])
    assert {*held, SPARE[0]} <= set(worknet.ensure())
