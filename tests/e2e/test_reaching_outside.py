"""`--egress allowlist`: packages come from a named mirror, and nothing else comes or goes."""

import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from gateway.repositories.docker.client import Docker
from tests import own
from tests.whole_gateway import NETWORK, Gateway

USER = own.user("user123")
EGRESS = f"{NETWORK}-egress"


def make_wheel(directory: Path) -> None:
    about = "gwhello-1.0.dist-info"
    with zipfile.ZipFile(directory / "gwhello-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("gwhello.py", "said = 'hello'\n")
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: gwhello\nVersion: 1.0\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")


@pytest.fixture(scope="module")
def mirror(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A package mirror beside the proxy, which the gateway lets sessions reach."""
    gateway.settings |= {
        "GATEWAY_EGRESS": "allowlist",
        "GATEWAY_EGRESS_HOSTS": "mirror.test:8000",
        "GATEWAY_EGRESS_PRIVATE_SUBNETS": "172.16.0.0/12,192.168.0.0/16",  # of Docker's networks
    }
    gateway.kill("serve")
    gateway.serve()
    packages = tmp_path_factory.mktemp("packages")
    make_wheel(packages)
    packages.chmod(0o755)
    docker = Docker().client
    container = docker.containers.create(
        "gpu-workspace",
        ["python3", "-m", "http.server", "8000", "--directory", "/packages"],
        volumes=[f"{packages}:/packages:ro"],
        network=EGRESS,
    )
    outside = docker.networks.get(EGRESS)
    outside.disconnect(container)
    outside.connect(container, aliases=["mirror.test"])
    container.start()
    yield
    container.remove(force=True)


def test_a_package_is_installed_from_the_mirror(gateway: Gateway, mirror: None) -> None:
    session = gateway.create(USER)
    steps = (
        "python3 -m venv env",
        "env/bin/pip install --quiet --no-index --find-links http://mirror.test:8000/"
        " --trusted-host mirror.test gwhello",
        "env/bin/python -c 'import gwhello; print(gwhello.said)'",
    )
    assert gateway.in_session(USER, " && ".join(steps)).strip() == "hello"
    other = "curl -s -o /dev/null -w '%{http_code}' http://example.com/ || true"
    assert gateway.in_session(USER, other) == "403"
    assert "mirror.test:8000 by $http_proxy" in gateway.in_session(USER, "cat /etc/motd")
    assert gateway.get("/readyz")["parts"]["egress"] == "ok: mirror.test:8000"
    assert "mirror.test" in subprocess.check_output(["docker", "logs", EGRESS], text=True)
    gateway.delete(session["session_id"])


def test_when_the_way_outside_is_closed_again_nothing_of_it_is_left(gateway: Gateway) -> None:
    gateway.settings |= {
        "GATEWAY_EGRESS": "none",
        "GATEWAY_EGRESS_HOSTS": "",
        "GATEWAY_EGRESS_PRIVATE_SUBNETS": "",
    }
    gateway.kill("serve")
    gateway.serve()
    assert requests.get(f"{gateway.url}/readyz", timeout=30).json()["parts"]["egress"] == "ok: none"
    assert (
        Docker().client.containers.list(all=True, ignore_removed=True, filters={"name": f"^{EGRESS}$"}) == []
    )
