"""`gateway doctor --attack` on a cluster: its targets, and how it gets into a session."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from gateway.database_url import DatabaseUrl
from gateway.doctor.attack.arena import Arena
from gateway.doctor.attack.catalogue import INSIDE
from gateway.doctor.attack.on_a_cluster import Cluster
from gateway.doctor.attack.outcome import Outcome, Verdict
from gateway.errors import ContainerFailed, Unavailable
from gateway.repositories.kubernetes.logins import Login
from gateway.settings import Settings
from tests.conftest import Bench
from tests.on_a_cluster import EGRESS, EGRESS_SERVICE, OnCluster, a_cluster


@dataclass
class Sshd:
    """Answers each command, or fails."""

    answer: str | ContainerFailed
    logins: list[Login] = field(default_factory=list)

    def run(self, login: Login, command: Sequence[str]) -> str:
        self.logins.append(login)
        if isinstance(self.answer, ContainerFailed):
            raise self.answer
        return self.answer


@pytest.fixture
def on_cluster(bench: Bench, tmp_path: Path, empty_database: Path) -> Iterator[OnCluster]:
    with a_cluster(bench, tmp_path / "cluster", empty_database) as made:
        yield made


@pytest.fixture
def settings(on_cluster: OnCluster, tmp_path: Path) -> Settings:
    """With the address of the database of the gateway."""
    return Settings(db=DatabaseUrl(Path(str(on_cluster.database.engine.url.database))))


def live(on_cluster: OnCluster, user: str) -> dict[str, Any]:
    answer: dict[str, Any] = on_cluster.ask("GET", f"/sessions/{on_cluster.open(user, '1g.5gb')}").json
    return {**answer, "ssh_user": user}


@pytest.fixture
def victim(on_cluster: OnCluster) -> dict[str, Any]:
    return live(on_cluster, "doctor-victim")


@pytest.fixture
def attacker(on_cluster: OnCluster) -> dict[str, Any]:
    return live(on_cluster, "doctor-attacker")


def ground(on_cluster: OnCluster, settings: Settings, sshd: Sshd | None = None) -> Cluster:
    return Cluster(settings, on_cluster.cluster.api.api, sshd or Sshd(""))


def test_the_targets_are_the_other_pod_the_api_server_and_the_nodes(
    on_cluster: OnCluster,
    settings: Settings,
    victim: dict[str, Any],
    attacker: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    addresses = [{"type": "InternalIP", "address": "192.0.2.7"}, {"type": "Hostname", "address": "node-1"}]
    on_cluster.cluster.api.change("nodes", "", "node-1", {"status": {"addresses": addresses}})
    found = ground(on_cluster, settings).targets(victim, attacker)
    assert found.neighbours == [on_cluster.address(victim["session_id"])]
    assert found.neighbour_sessions == [victim["session_id"]]
    assert found.hosts == ["10.96.0.1", "10.96.0.10", "192.0.2.7"]
    assert {2222, 6443, 10250} <= set(found.ports)
    assert not found.refusals, "network plugins may refuse packets instead of dropping them"


def test_the_proxy_of_the_sessions_is_a_target(
    on_cluster: OnCluster, settings: Settings, victim: dict[str, Any], attacker: dict[str, Any]
) -> None:
    assert ground(on_cluster, settings).targets(victim, attacker).proxies == []
    on_cluster.cluster.api.put("services", EGRESS_SERVICE)
    found = ground(on_cluster, replace(settings, egress_service=EGRESS)).targets(victim, attacker)
    assert found.proxies == ["10.96.0.31:3128"]


def test_the_memory_hog_exceeds_the_limit_of_its_pod(
    on_cluster: OnCluster, settings: Settings, victim: dict[str, Any], attacker: dict[str, Any]
) -> None:
    found = ground(on_cluster, settings).targets(victim, attacker)
    assert found.memory_mib == 20 * 1024, "16 GiB for the one memory slice of 1g.5gb, and a quarter more"


def test_an_attempt_runs_in_the_attacker_s_pod_with_the_router_s_key(
    on_cluster: OnCluster, settings: Settings, victim: dict[str, Any], attacker: dict[str, Any]
) -> None:
    sshd = Sshd('{"verdict": "stopped", "why": "Operation not permitted"}\n')
    outcome = attempt(ground(on_cluster, settings, sshd), victim, attacker, "mount")
    assert outcome == Outcome(Verdict.STOPPED, "Operation not permitted")
    [login] = sshd.logins
    assert (login.address, login.username) == (on_cluster.address(attacker["session_id"]), "doctor-attacker")
    with on_cluster.database.read() as rows:
        assert login.private_key == rows.live(attacker["session_id"]).private_key


def test_an_attempt_that_cannot_run_proves_nothing(
    on_cluster: OnCluster, settings: Settings, victim: dict[str, Any], attacker: dict[str, Any]
) -> None:
    broken = Sshd(ContainerFailed("A command in the session failed: no python3"))
    outcome = attempt(ground(on_cluster, settings, broken), victim, attacker, "mount")
    assert outcome == Outcome(Verdict.UNCLEAR, "A command in the session failed: no python3")


def test_what_only_docker_can_judge_is_not_tried(
    on_cluster: OnCluster, settings: Settings, victim: dict[str, Any], attacker: dict[str, Any]
) -> None:
    sshd = Sshd("")
    for name in ("flood_log", "linger", "ask_dockers_resolver"):
        outcome = attempt(ground(on_cluster, settings, sshd), victim, attacker, name)
        assert outcome.verdict is Verdict.UNTRIED
        assert outcome.why
    assert sshd.logins == []


def test_the_attempts_that_are_not_tried_exist() -> None:
    assert Cluster.untried.keys() <= {probe.attempt for probe in INSIDE}


def test_another_database_is_named(
    on_cluster: OnCluster,
    settings: Settings,
    victim: dict[str, Any],
    attacker: dict[str, Any],
    empty_database: Path,
) -> None:
    other = replace(settings, db=DatabaseUrl(empty_database))
    with pytest.raises(Unavailable, match="not the database of the gateway"):
        ground(on_cluster, other).run(attacker, ["true"])


def test_another_namespace_is_named(
    on_cluster: OnCluster, settings: Settings, victim: dict[str, Any], attacker: dict[str, Any]
) -> None:
    other = replace(settings, namespace_sessions="elsewhere")
    with pytest.raises(Unavailable, match="--namespace-sessions is not that of the gateway"):
        ground(on_cluster, other).targets(victim, attacker)


def attempt(on: Cluster, victim: dict[str, Any], attacker: dict[str, Any], name: str) -> Outcome:
    probe = next(probe for probe in INSIDE if probe.attempt == name)
    return Arena(on, victim, attacker, on.targets(victim, attacker)).attempt(probe)
