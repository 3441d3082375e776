"""Sessions stay closed without Docker's rules, and after somebody has flushed all rules of the host.

Each test has a Docker daemon and a network namespace of its own. Packets are really sent.
"""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from gateway.repositories.docker.client import Docker
from tests import own
from tests.own_docker import own_docker
from tests.warm import own_warm
from tests.whole_gateway import NETWORK, Gateway, eventually, running

USER, NEIGHBOUR = own.user("user123"), own.user("neighbour")
_CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=1)"


@contextmanager
def gateway_on(directory: Path, *arguments: str) -> Iterator[Gateway]:
    """A gateway with two sessions, on a daemon with these arguments."""
    with own_docker(*arguments) as docker, own_warm() as warm:
        docker.load(os.environ.get("GATEWAY_IMAGE", "gpu-workspace"))
        with running(Gateway(directory, warm=warm)) as gateway:
            for user in (USER, NEIGHBOUR):
                gateway.create(user, mig_profile="1g.5gb")
            yield gateway


def endpoint(user: str) -> dict[str, Any]:
    found = Docker().client.api.inspect_container(f"{user}-container")
    return {
        "namespace": found["NetworkSettings"]["SandboxKey"],
        **found["NetworkSettings"]["Networks"][NETWORK],
    }


def sends(user: str, address: str, port: int) -> bool:
    """Whether a packet from the user's session gets there and back."""
    inside = ["nsenter", f"--net={endpoint(user)['namespace']}"]
    command = [*inside, "python3", "-c", _CONNECT, address, str(port)]
    return subprocess.run(command, capture_output=True).returncode == 0


def require_closed(gateway: Gateway) -> None:
    """Sessions reach themselves, but neither each other nor the host; the router reaches them."""
    session, neighbour = endpoint(USER), endpoint(NEIGHBOUR)
    assert sends(USER, session["IPAddress"], 2222), "the attempt itself works"
    assert not sends(USER, neighbour["IPAddress"], 2222)
    with socket.create_server(("0.0.0.0", 0)) as service:
        assert not sends(USER, session["Gateway"], service.getsockname()[1])
    assert gateway.in_session(USER, "echo in").strip() == "in"


def network_of(gateway: Gateway) -> str:
    line: str = requests.get(f"{gateway.url}/readyz", timeout=30).json()["parts"]["network"]
    return line


def test_a_daemon_without_iptables_leaves_no_session_open(tmp_path: Path) -> None:
    with gateway_on(tmp_path, "--iptables=false") as gateway:
        require_closed(gateway)
        assert network_of(gateway) == "ok"


def test_a_flushed_ruleset_opens_no_session_and_is_repaired(tmp_path: Path) -> None:
    with gateway_on(tmp_path) as gateway:
        subprocess.run(["nft", "flush", "ruleset"], check=True)
        require_closed(gateway)
        assert "incomplete: the gateway loads it again within a minute" in network_of(gateway)
        gateway.create(own.user("another"), mig_profile="1g.5gb")
        require_closed(gateway)
        assert network_of(gateway) == "ok"
        subprocess.run(["nft", "flush", "ruleset"], check=True)
        eventually(lambda: network_of(gateway) == "ok", seconds=75)
        require_closed(gateway)
