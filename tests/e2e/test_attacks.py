"""Attacks on a running gateway with tokens, by `gateway doctor --attack`."""

import json
import subprocess
from typing import Any

import pytest

from gateway.client import Client
from gateway.doctor.attack.arena import ATTACKER, VICTIM, arena
from gateway.doctor.attack.catalogue import INSIDE, OUTSIDE
from gateway.doctor.attack.on_a_server import Server
from gateway.doctor.attack.outcome import Verdict
from gateway.doctor.attack.outside.attacker import OutsideProbe
from gateway.doctor.attack.probe import Probe
from gateway.repositories.docker.client import Docker
from gateway.repositories.docker.exec import Inside
from gateway.settings import Settings
from tests.whole_gateway import NETWORK, Gateway

_ONLY_WITH_A_DRIVER = "a second GPU"


@pytest.fixture(scope="module")
def token(gateway: Gateway) -> str:
    """From now on the gateway needs tokens, and sessions can reach one host, for attacks at the proxy."""
    gateway.settings |= {"GATEWAY_EGRESS": "allowlist", "GATEWAY_EGRESS_HOSTS": "pypi.org:443"}
    gateway.kill("serve")
    gateway.serve()
    return gateway.run("token", "create", "test", "--role", "admin").stdout.strip()


@pytest.fixture(scope="module")
def attempts(gateway: Gateway, token: str) -> dict[str, dict[str, Any]]:
    done = gateway.run("doctor", "--attack", "--json", GATEWAY_TOKEN=token)
    report = json.loads(done.stdout)
    print(json.dumps(report, indent=2))
    assert done.returncode == (0 if report["withstood"] else 1), done.stderr
    return {one["name"]: one["outcome"] for one in report["attempts"]}


@pytest.mark.parametrize("probe", [*INSIDE, *OUTSIDE], ids=lambda probe: probe.name)
def test_the_attack_is_stopped(attempts: dict[str, dict[str, Any]], probe: Probe | OutsideProbe) -> None:
    outcome = attempts[probe.name]
    expected = Verdict.UNTRIED if probe.name == _ONLY_WITH_A_DRIVER else Verdict.STOPPED
    assert outcome["verdict"] == expected, outcome["why"]


def test_no_session_workspace_or_token_is_left_behind(
    gateway: Gateway, token: str, attempts: dict[str, dict[str, Any]]
) -> None:
    assert Client(gateway.url, token).ask("GET", "/sessions")["sessions"] == []
    assert [line.split()[0] for line in gateway.run("token", "list").stdout.splitlines()] == ["NAME", "test"]
    assert not {VICTIM, ATTACKER} & {path.name for path in (gateway.directory / "workspaces").iterdir()}


def test_an_open_host_is_reported(gateway: Gateway, token: str) -> None:
    """Without the rules of the host and those in the session's own network namespace."""
    the_host = next(probe for probe in INSIDE if probe.parameters.get("addresses") == "hosts")
    settings = Settings.load(gateway.environment)
    ground = Server(settings, Inside(Docker()))
    with arena(Client(gateway.url, token), settings.db, ground) as sessions:
        assert sessions.attempt(the_host).verdict == Verdict.STOPPED
        table = f"gateway_{NETWORK.replace('-', '/')}"  # nft allows no hyphen
        subprocess.run(["nft", "delete", "table", "inet", table], check=True)
        assert sessions.attempt(the_host).verdict == Verdict.STOPPED, "the session's own rules hold"
        container = Docker().client.containers.get(sessions.attacker["container_id"])
        inside = ["nsenter", f"--net={container.attrs['NetworkSettings']['SandboxKey']}"]
        subprocess.run([*inside, "nft", "delete", "table", "inet", "gateway"], check=True)
        outcome = sessions.attempt(the_host)
    assert outcome.verdict == Verdict.THROUGH
    assert "answers" in outcome.why


def test_a_session_with_small_limits_stops_the_same_attacks(
    gateway: Gateway, attempts: dict[str, dict[str, Any]]
) -> None:
    """Temporary files can fill nearly all of its memory, so one attempt that leaves some behind shows."""
    limits = {"MEMORY": "96m", "TMP": "80m", "SHM": "16m", "PIDS": "32", "OPEN_FILES": "128"}
    gateway.settings |= {f"GATEWAY_SESSION_{name}": limit for name, limit in limits.items()}
    gateway.kill("serve")
    gateway.serve()
    token = gateway.run("token", "create", "small", "--role", "admin").stdout.strip()
    done = gateway.run("doctor", "--attack", "--json", GATEWAY_TOKEN=token)
    found = json.loads(done.stdout)["attempts"]
    through = {one["name"]: one["outcome"] for one in found if one["origin"] == "inside"}
    wrong = {name: one for name, one in through.items() if one["verdict"] not in ("stopped", "untried")}
    assert wrong == {}
