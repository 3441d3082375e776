"""The gateway behind a proxy that passes on what the compose file allows, and nothing else of Docker."""

import json
import os
import subprocess
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import requests

from gateway.database_url import DatabaseUrl
from gateway.domain.ssh_keys import make_pair
from gateway.repositories.docker.client import Docker
from gateway.repositories.docker.exec import Inside
from tests import own
from tests.e2e.docker_relay import DockerRelay
from tests.paths import REPOSITORY
from tests.whole_gateway import NETWORK, SUBNET, Gateway, eventually, running, take_network_away

USER = own.user("user123")
OVERRIDE = REPOSITORY / "docker/compose.socket-proxy.yaml"


def services() -> dict[str, Any]:
    """Of both compose files together."""
    files = [argument for name in ("compose.yaml", OVERRIDE.name) for argument in ("--file", name)]
    command = ["docker", "compose", *files, "config", "--format", "json"]
    done = subprocess.run(command, cwd=OVERRIDE.parent, capture_output=True, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout)["services"]
    return told


def allowed() -> list[str]:
    """The compose file's own expressions, as `METHOD /path`."""
    environment = services()["docker-proxy"]["environment"]
    prefix = "SP_ALLOW_"
    given = {name.removeprefix(prefix): text for name, text in environment.items() if name.startswith(prefix)}
    return [f"{name.split('_')[0]} {expression}" for name, expression in given.items()]


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRelay]:
    dockers = Path(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://"))
    relay = DockerRelay(tmp_path_factory.mktemp("relay") / "docker.sock", dockers, allowed())
    yield relay
    relay.close()


@pytest.fixture(scope="module")
def filtered(relay: DockerRelay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway whose only way to Docker is the relay, with all that it can be told to do."""
    take_network_away(NETWORK, SUBNET)  # another module may have left an egress proxy, which it would use
    gateway = Gateway(tmp_path_factory.mktemp("filtered"))
    gateway.settings = {"DOCKER_HOST": f"unix://{relay.path}"}
    gateway.settings |= {"GATEWAY_EGRESS": "allowlist", "GATEWAY_EGRESS_HOSTS": "pypi.org:443"}
    with running(gateway):
        yield gateway


@pytest.fixture
def broken_image() -> Iterator[str]:
    """One without an sshd."""
    docker, image = Docker().client, own.name("broken")
    recipe = b"FROM gpu-workspace\nRUN rm /usr/sbin/sshd\n"
    docker.images.build(fileobj=BytesIO(recipe), tag=image, network_mode="none", rm=True, forcerm=True)
    yield image
    docker.images.remove(image)


def test_a_sessions_whole_life_needs_what_is_allowed_all_of_it_and_nothing_else(
    filtered: Gateway,
    relay: DockerRelay,
    broken_image: str,
    postgresql_url: DatabaseUrl,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # opened, used, a key withdrawn (which cuts connections), looked at, ended
    session = filtered.create(USER)
    assert filtered.in_session(USER, "id -un").strip() == USER
    other = {"ssh_public_keys": [make_pair().public]}
    assert requests.put(f"{filtered.url}/sessions/{session['session_id']}/keys", json=other, timeout=30).ok
    assert filtered.run("doctor").returncode == 0
    # where there is a real driver, the GPU is looked for inside
    with monkeypatch.context() as environment:
        environment.setenv("DOCKER_HOST", filtered.settings["DOCKER_HOST"])
        assert Inside(Docker()).run(session["container_id"], ["true"]) == (0, "")
    assert filtered.delete(session["session_id"]).status_code == 204
    # one whose container ends by itself, which the gateway hears of by Docker's events
    session = filtered.create(USER)
    Docker().client.containers.get(session["container_id"]).kill()
    eventually(lambda: filtered.leftovers(session["session_id"]) == [])
    # one that does not start: its last words are asked for
    filtered.settings["GATEWAY_IMAGE"] = broken_image
    filtered.kill("serve")
    filtered.serve()
    answer = requests.post(f"{filtered.url}/sessions", json={"user_id": USER}, timeout=60)
    assert "stopped while it started" in answer.json()["detail"]
    # another machine's database, told by the id of its Docker Engine
    assert (
        filtered.run(
            "take-over", GATEWAY_DB=postgresql_url.url.render_as_string(hide_password=False)
        ).returncode
        == 0
    )
    # the way outside is closed again
    filtered.settings |= {"GATEWAY_EGRESS": "none", "GATEWAY_EGRESS_HOSTS": ""}
    filtered.kill("serve")
    filtered.serve()
    assert (relay.refused, set(allowed()) - relay.used) == ([], set())


def test_what_is_not_allowed_does_not_get_to_docker(filtered: Gateway, relay: DockerRelay) -> None:
    others = {"/v1.43/build": "POST", "/v1.43/containers/abc/update": "POST", "/v1.43/volumes": "GET"}
    for path, method in others.items():
        command = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-X", method]
        asked = [*command, "--unix-socket", str(relay.path), f"http://docker{path}"]
        assert subprocess.run(asked, capture_output=True, text=True).stdout == "403"


def test_nothing_but_the_proxy_has_dockers_socket() -> None:
    given = services()
    having = [name for name, service in given.items() if "docker.sock" in json.dumps(service["volumes"])]
    assert having == ["docker-proxy"]
    assert given["gpu-ssh-orchestrator"]["environment"]["DOCKER_HOST"].endswith(
        given["docker-proxy"]["environment"]["SP_PROXYSOCKETENDPOINT"]
    )
