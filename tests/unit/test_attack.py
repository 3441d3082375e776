"""`gateway doctor --attack` over fakes: its targets, its judgement, and that it leaves nothing behind."""

import json
import os
import socket
import subprocess
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives import serialization

from gateway.cli import gateway
from gateway.client import Client
from gateway.doctor.attack import arena as attacking
from gateway.doctor.attack.arena import ATTACKER, VICTIM, Attempt, attack
from gateway.doctor.attack.catalogue import INSIDE, OUTSIDE
from gateway.doctor.attack.from_outside import Outside
from gateway.doctor.attack.on_a_server import Server
from gateway.doctor.attack.outcome import Outcome, Verdict
from gateway.doctor.attack.outside.attacker import Login
from gateway.doctor.attack.outside.proxies import connected
from gateway.doctor.attack.targets import filler_mib, host_addresses, listening_ports, targets
from gateway.domain.permissions import Role
from gateway.errors import DockerUnavailable, GatewayError, Unavailable
from gateway.repositories.docker.exec import Inside
from gateway.services.tokens import Tokens
from gateway.settings import Settings
from gateway.settings.kinds import Size
from tests.conftest import NOTHING, Bench

MIB = 2**20


class FakeInside:
    """Reports that each attempt was stopped, except those in `reports`, by the name of the attempt."""

    def __init__(self, **reports: tuple[int, str] | BaseException) -> None:
        self.reports = reports
        self.tried: list[str] = []
        self.log = 10 * MIB
        self.memory = 16 * 1024 * MIB

    def run(self, container_id: str, command: Sequence[str]) -> tuple[int, str]:
        assert command[:2] == ["timeout", "--signal=KILL"]
        attempt = command[-2]
        self.tried.append(attempt)
        report = self.reports.get(attempt, (0, json.dumps({"verdict": "stopped", "why": "no"})))
        if isinstance(report, BaseException):
            raise report
        return report

    def memory_limit(self, container_id: str) -> int:
        return self.memory

    def log_size(self, container_id: str) -> int:
        return self.log


def report(verdict: str, why: str = "evidence") -> tuple[int, str]:
    return 0, json.dumps({"verdict": verdict, "why": why})


def public_of(private_key: str) -> str:
    public = serialization.load_ssh_private_key(private_key.encode(), None).public_key()
    return public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


DENIED = (255, "Permission denied (publickey).")


class FakeEntryPoint:
    """A router with the bench's pipes, and the sshd of each session behind it."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def to(self, _session: Any) -> Login:
        return self.login

    def login(self, user: str, private_key: str, *options: str) -> tuple[int, str]:
        public = public_of(private_key)
        pipes = [pipe for pipe in self._bench.pipes.list() if pipe.username == user]
        if "PubkeyAuthentication=no" in options or not any(public in pipe.public_keys for pipe in pipes):
            return DENIED
        with self._bench.database.read() as rows:
            session = rows.get(pipes[0].session_id)
        if session is None or session.host_key != pipes[0].host_key:
            return 255, "Connection closed by 127.0.0.1 port 2222"
        return 0, ""


def outside_of(bench: Bench, url: str, token: str | None = None, login: Login | None = None) -> Outside:
    tokens = Tokens(bench.database, bench.clock)
    entry = FakeEntryPoint(bench)
    return Outside(
        Client(url, token),
        bench.pipes,
        tokens,
        bench.clock,
        entry.to if login is None else lambda _session: login,
        connects_as=lambda uid, _address: uid == 0,
        connected_from_proxy=lambda _targets: [],
        wait=lambda seconds: bench.clock.advance(seconds=seconds),
    )


def try_all(outside: Outside, settings: Settings, inside: FakeInside) -> list[Attempt]:
    ground = Server(settings, cast(Inside, inside))
    return attack(outside.client, settings.db, ground, outside, INSIDE)


def run(bench: Bench, url: str, inside: FakeInside, outside: Outside | None = None) -> dict[str, Attempt]:
    attempts = try_all(outside or outside_of(bench, url), bench.settings, inside)
    names = [*(probe.name for probe in INSIDE), *(probe.name for probe in OUTSIDE)]
    assert [attempt.name for attempt in attempts] == names
    return {attempt.name: attempt for attempt in attempts}


def of_outside(attempts: dict[str, Attempt], verdict: Verdict) -> set[str]:
    names = {name for name, one in attempts.items() if one.origin == "outside"}
    return {name for name in names if attempts[name].outcome.verdict is verdict}


SSH = {probe.name for probe in OUTSIDE if probe.attempt.__module__.endswith("logins")}
ACCOUNTS = {probe.name for probe in OUTSIDE if probe.attempt.__module__.endswith("accounts")}
PROXY = "the egress proxy's own connections"
WITH_TOKENS = {probe.name for probe in OUTSIDE if probe.name.startswith("the API")}
ALL_OUTSIDE = {probe.name for probe in OUTSIDE}


def test_an_attacker_is_stopped_everywhere_and_the_tokens_are_deleted(bench: Bench, url: str) -> None:
    tokens = Tokens(bench.database, bench.clock)
    admin = tokens.create("admin", Role.ADMIN)
    attempts = run(bench, url, FakeInside(), outside_of(bench, url, admin))
    stopped = {name: attempts[name].outcome for name in ALL_OUTSIDE}
    assert of_outside(attempts, Verdict.STOPPED) == ALL_OUTSIDE, stopped
    assert [token.name for token in tokens.list()] == ["admin"]
    assert leftovers(bench) == (NOTHING, [])


def test_without_tokens_the_attempts_with_tokens_are_untried(bench: Bench, url: str) -> None:
    attempts = run(bench, url, FakeInside())
    assert of_outside(attempts, Verdict.UNTRIED) == WITH_TOKENS
    assert of_outside(attempts, Verdict.STOPPED) == ALL_OUTSIDE - WITH_TOKENS


def test_an_entry_point_that_accepts_everyone_is_reported(bench: Bench, url: str) -> None:
    attempts = run(bench, url, FakeInside(), outside_of(bench, url, login=lambda *_: (0, "")))
    assert of_outside(attempts, Verdict.THROUGH) == SSH


@pytest.mark.parametrize("result", [DENIED, (255, "ssh: connect to host ssh.gw port 22: Connection refused")])
def test_an_entry_point_that_refuses_everyone_proves_nothing(
    bench: Bench, url: str, result: tuple[int, str]
) -> None:
    attempts = run(bench, url, FakeInside(), outside_of(bench, url, login=lambda *_: result))
    assert of_outside(attempts, Verdict.UNCLEAR) == SSH


@pytest.mark.parametrize(("status", "verdict"), [(200, Verdict.THROUGH), (500, Verdict.UNCLEAR)])
def test_an_api_that_refuses_no_request_is_reported(
    bench: Bench, url: str, monkeypatch: pytest.MonkeyPatch, status: int, verdict: Verdict
) -> None:
    admin = Tokens(bench.database, bench.clock).create("admin", Role.ADMIN)
    monkeypatch.setattr(Client, "status", lambda *_: status)
    attempts = run(bench, url, FakeInside(), outside_of(bench, url, admin))
    assert of_outside(attempts, verdict) == ALL_OUTSIDE - SSH - ACCOUNTS - {PROXY}


def not_permitted(uid: int, _address: str) -> bool:
    raise PermissionError(uid)


@pytest.mark.parametrize(
    ("connects_as", "verdict"),
    [
        (lambda *_: True, Verdict.THROUGH),
        (lambda *_: False, Verdict.UNCLEAR),
        (not_permitted, Verdict.UNTRIED),
    ],
)
def test_a_host_whose_accounts_can_connect_to_sessions_is_reported(
    bench: Bench, url: str, connects_as: Callable[[int, str], bool], verdict: Verdict
) -> None:
    """If root cannot connect either, the attempt proves nothing."""
    attempts = run(bench, url, FakeInside(), replace(outside_of(bench, url), connects_as=connects_as))
    assert of_outside(attempts, verdict) >= ACCOUNTS


def test_what_the_proxy_connects_to_is_reported(bench: Bench, url: str) -> None:
    tried: list[str] = []

    def connected(targets: Collection[str]) -> Sequence[str]:
        tried.extend(targets)
        return ["10.0.0.1 port 22"]

    fixed = replace(outside_of(bench, url), connected_from_proxy=connected)
    outcome = run(bench, url, FakeInside(), fixed)[PROXY].outcome
    assert outcome == Outcome(Verdict.THROUGH, "10.0.0.1 port 22 accepts a connection")
    assert "169.254.169.254 80" in tried
    assert any(target.endswith(" 2222") for target in tried), "the victim's session"
    without = replace(outside_of(bench, url), connected_from_proxy=None)
    assert run(bench, url, FakeInside(), without)[PROXY].outcome.verdict is Verdict.UNTRIED


def run_here(command: Sequence[str]) -> tuple[int, str]:
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout


def test_a_connection_from_the_proxy_is_a_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as service:
        port = service.getsockname()[1]
        assert connected(run_here, [f"127.0.0.1 {port}", "127.0.0.1 1"]) == [f"127.0.0.1 port {port}"]
    assert connected(run_here, [f"127.0.0.1 {port}"]) == []
    with pytest.raises(Unavailable, match="cannot run the attempt"):
        connected(lambda _: (127, "no bash"), ["127.0.0.1 1"])


def test_the_route_is_restored_after_the_changed_host_key(bench: Bench, url: str) -> None:
    routes: list[Any] = []

    def login(user: str, private_key: str, *options: str) -> tuple[int, str]:
        routes.append({pipe.session_id: pipe.host_key for pipe in bench.pipes.list()})
        return FakeEntryPoint(bench).login(user, private_key, *options)

    run(bench, url, FakeInside(), outside_of(bench, url, login=login))
    assert [routes[0] == one for one in routes if one] == [*[True] * (len(routes) - 3), False, True]


def leftovers(bench: Bench) -> tuple[dict[str, list[str]], list[str]]:
    return bench.leftovers(), os.listdir(bench.settings.workspace_root)


def test_every_probe_runs_once_inside_and_leaves_nothing_behind(bench: Bench, url: str) -> None:
    inside = FakeInside()
    attempts = run(bench, url, inside)
    assert sorted(inside.tried) == sorted(probe.attempt for probe in INSIDE)
    assert all(attempt.failed for attempt in attempts.values())
    assert attempts["mount"].outcome == Outcome(Verdict.STOPPED, "no")
    assert leftovers(bench) == (NOTHING, [])


@pytest.mark.parametrize(
    ("result", "verdict"),
    [
        (report("through"), Verdict.THROUGH),
        ((137, "Killed"), Verdict.UNCLEAR),
        (DockerUnavailable("Docker did not answer within 30 s"), Verdict.UNCLEAR),
    ],
)
def test_an_attack_that_succeeds_or_cannot_run_has_not_failed(
    bench: Bench, url: str, result: Any, verdict: Verdict
) -> None:
    attempts = run(bench, url, FakeInside(mount=result))
    assert attempts["mount"].outcome.verdict == verdict
    assert [attempt.name for attempt in attempts.values() if not attempt.failed] == ["mount"]


def test_a_log_flood_is_judged_by_what_docker_kept(bench: Bench, url: str) -> None:
    inside = FakeInside(flood_log=report("untried"))
    assert run(bench, url, inside)["a log flood"].outcome == Outcome(
        Verdict.STOPPED, "Docker kept 10 of 64 MiB"
    )
    inside.log = 64 * MIB
    assert run(bench, url, inside)["a log flood"].outcome.verdict == Verdict.THROUGH


@pytest.mark.parametrize(
    ("counted", "verdict"),
    [((2, 0), Verdict.STOPPED), ((2, 1), Verdict.THROUGH), ((0, 0), Verdict.UNTRIED)],
)
def test_processes_are_counted_after_the_session(
    bench: Bench, url: str, monkeypatch: pytest.MonkeyPatch, counted: tuple[int, int], verdict: Verdict
) -> None:
    """If none is visible during the session, none can be visible after it."""
    counts = iter(counted)
    monkeypatch.setattr(Server, "processes", lambda *_: next(counts))
    attempts = run(bench, url, FakeInside(linger=report("untried")))
    assert attempts["a process that outlives the lease"].outcome.verdict == verdict


def test_an_attempt_without_time_has_not_failed(
    bench: Bench, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attacking, "_TOTAL_SECONDS", 0.0)
    inside = FakeInside()
    attempts = run(bench, url, inside).values()
    assert not any(attempt.failed for attempt in attempts if attempt.origin == "inside")
    assert inside.tried == []


def test_a_memory_limit_that_cannot_be_reached_in_time_is_untried(bench: Bench, url: str) -> None:
    inside = FakeInside()
    inside.memory = 64 * 2**30
    found = try_all(outside_of(bench, url), bench.settings, inside)
    attempts = {one.name: one for one in found}
    assert attempts["a memory hog"].outcome.verdict == Verdict.UNTRIED


def test_without_capacity_for_two_sessions_it_reports_that_and_leaves_nothing(bench: Bench, url: str) -> None:
    for number in range(6):
        bench.client.post("/sessions", json={"user_id": f"user{number}"})
    before = len(bench.leftovers()["rows"])
    with pytest.raises(GatewayError, match=r"No GPU has room for a 1g\.5gb now"):
        run(bench, url, FakeInside())
    assert len(bench.leftovers()["rows"]) == before
    assert not {VICTIM, ATTACKER} & set(os.listdir(bench.settings.workspace_root))


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_an_interrupted_attack_leaves_nothing_behind(
    bench: Bench, url: str, error: type[BaseException]
) -> None:
    with pytest.raises(error):
        run(bench, url, FakeInside(fork_bomb=error()))
    assert leftovers(bench) == (NOTHING, [])


def test_a_session_that_cannot_be_closed_is_reported_with_a_remedy(
    bench: Bench, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attacking, "_CLOSING_SECONDS", 0.0)
    bench.containers.fail("remove", DockerUnavailable("Docker is out of reach."))
    with pytest.raises(Unavailable, match="still closing.*lease ends within 5 minutes; then remove "):
        run(bench, url, FakeInside())


def test_a_gateway_with_another_database_is_not_attacked(bench: Bench, url: str, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    other.write_bytes((bench.settings.state_dir / "sessions.db").read_bytes())
    inside = FakeInside()
    settings = replace(bench.settings, db=type(bench.settings.db)(other))
    with pytest.raises(GatewayError, match="not the database"):
        try_all(outside_of(bench, url), settings, inside)
    assert inside.tried == []
    assert leftovers(bench) == (NOTHING, [])


# The targets.

FIB_TRIE = """\
Local:
  +-- 0.0.0.0/0 3 0 5
     |-- 10.213.0.1
        /32 host LOCAL
     |-- 10.213.15.255
        /32 link BROADCAST
     |-- 127.0.0.1
        /32 host LOCAL
     |-- 192.0.2.7
        /32 host LOCAL
"""
IF_INET6 = """\
00000000000000000000000000000001 01 80 10 80       lo
fe80000000000000004213fffe0f0001 05 40 20 80  worknet
20010db8000000000000000000000007 02 40 00 80     eth0
"""
TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 0100007F:9C40 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0 20 4 0 10 -1
"""


def test_the_hosts_addresses_and_open_ports_are_read_from_the_kernel(tmp_path: Path) -> None:
    for name, text in {"fib_trie": FIB_TRIE, "if_inet6": IF_INET6, "tcp": TCP}.items():
        (tmp_path / name).write_text(text)
    assert host_addresses(tmp_path) == ["10.213.0.1", "192.0.2.7", "2001:db8::7", "fe80::42:13ff:fe0f:1"]
    assert listening_ports(tmp_path) == {8080}


def test_the_targets_exceed_the_limits_of_the_settings(bench: Bench) -> None:
    found = targets(bench.settings, VICTIM, "an-id", "10.213.0.2", 16 * 2**30)
    assert (found.memory_mib, found.filler_mib, found.processes) == (20 * 1024, 4 * 1024, 2024)
    assert {2222, 8080, 22} <= set(found.ports)


@pytest.mark.parametrize(("size", "mib"), [("64k", 2), ("512m", 1024), ("2g", 4096), ("1t", 2 * 2**20)])
def test_a_directory_in_memory_is_filled_with_twice_its_size(bench: Bench, size: str, mib: int) -> None:
    assert filler_mib(replace(bench.settings, session_tmp=Size(size), session_shm=Size("64k"))) == mib


# The command.


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    def run(attempts: list[Attempt], *arguments: str, **options: Any) -> Result:
        monkeypatch.setattr(attacking, "attack", lambda *_: attempts)
        return CliRunner().invoke(gateway, ["doctor", "--attack", *arguments], **options)

    return run


STOPPED = Attempt("inside", "mount", "A file system.", Outcome(Verdict.STOPPED, "Operation not permitted"))
UNTRIED = Attempt("inside", "a second GPU", "More.", Outcome(Verdict.UNTRIED, "no driver"))
THROUGH = Attempt("inside", "the host", "A port.", Outcome(Verdict.THROUGH, "10.0.0.1 port 22 answers"))


def test_the_table_shows_what_stopped_each_attack(command: Callable[..., Result]) -> None:
    shown = command([STOPPED, UNTRIED])
    assert shown.exit_code == 0
    assert shown.stdout.splitlines() == [
        "FROM    WHAT WAS TRIED  RESULT   WHAT STOPPED IT",
        "inside  mount           stopped  Operation not permitted",
        "inside  a second GPU    untried  no driver",
        "",
        "None of 2 attacks succeeded.",
    ]


@pytest.mark.parametrize("verdict", [Verdict.THROUGH, Verdict.UNCLEAR])
def test_an_attack_that_was_not_stopped_exits_with_1(
    command: Callable[..., Result], verdict: Verdict
) -> None:
    shown = command([STOPPED, replace(THROUGH, outcome=Outcome(verdict, "why"))], color=True)
    assert shown.exit_code == 1
    assert "1 of 2 attacks were not stopped." in shown.stdout
    assert f"\x1b[31minside  the host        {verdict}" in shown.stdout


def test_json_is_the_only_output(command: Callable[..., Result]) -> None:
    shown = json.loads(command([STOPPED, THROUGH], "--json").stdout)
    assert shown["withstood"] is False
    assert shown["attempts"][1]["outcome"] == {"verdict": "through", "why": "10.0.0.1 port 22 answers"}
