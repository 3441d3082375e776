"""What a session's user would try, from inside a real session by ssh: none of it gets through."""

import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from gateway.probes.catalogue import INSIDE
from gateway.probes.probe import Outcome, Probe, Targets, Verdict, judge
from gateway.repositories.docker import Docker
from tests.e2e.conftest import NETWORK, Gateway


@dataclass(frozen=True)
class Arena:
    """Two sessions, and what the one aims at."""

    gateway: Gateway
    attacker: dict[str, Any]
    victim: dict[str, Any]
    targets: Targets

    def attempt(self, probe: Probe) -> Outcome:
        command = self.gateway.ssh("attacker", shlex.join(probe.command(self.targets)))
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        return judge(done.returncode, done.stdout + done.stderr if done.returncode else done.stdout)


def address_of(session: dict[str, Any]) -> str:
    container = Docker().client.containers.get(session["container_id"])
    address: str = container.attrs["NetworkSettings"]["Networks"][NETWORK]["IPAddress"]
    return address


def addresses_of_the_host() -> list[str]:
    shown = subprocess.check_output(["ip", "-oneline", "address"], text=True)
    return [line.split()[3].partition("/")[0] for line in shown.splitlines()]


@pytest.fixture(scope="module")
def arena(gateway: Gateway) -> Iterator[Arena]:
    victim, attacker = gateway.create("victim"), gateway.create("attacker")
    hosts = [address for address in addresses_of_the_host() if not address.startswith(("127.", "::1"))]
    targets = Targets(
        neighbours=[address_of(victim)],
        neighbour_names=["victim-container", "victim-gpu"],
        users=["victim"],
        hosts=[address for address in hosts if not address.startswith("fe80")],
        links=[address for address in hosts if address.startswith("fe80")],
        ports=[22, 80, 111, 2222, 2375, 2376, 8080, gateway.port, gateway.ssh_port],
        memory_mib=1024,
        filler_mib=128,
        processes=2000,
        files=110_000,
    )
    yield Arena(gateway, attacker, victim, targets)
    for session in (victim, attacker):
        gateway.delete(session["session_id"])


@pytest.mark.parametrize("probe", INSIDE, ids=lambda probe: probe.name)
def test_it_does_not_get_through(arena: Arena, probe: Probe) -> None:
    outcome = arena.attempt(probe)
    print(f"{probe.name} | {outcome.verdict} | {outcome.why}")
    assert outcome.verdict in (Verdict.STOPPED, Verdict.UNTRIED), outcome.why
