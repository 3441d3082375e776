"""Idle sessions: found by signals, warned, kept, and ended."""

from typing import Any

import pytest
from click.testing import CliRunner

from gateway.cli import gateway as command
from gateway.domain.activity_words import ActivityInWords
from gateway.domain.permissions import Role
from gateway.domain.words import Words
from gateway.errors import ContainerFailed, DriverUnavailable
from gateway.services.tokens import Tokens
from tests.conftest import Bench, BenchMaker
from tests.fakes.containers import FakeInside
from tests.fakes.gpus import FakeGpus


@pytest.fixture
def bench(bench_of: BenchMaker) -> Bench:
    return bench_of(FakeGpus(["A100-40GB"]), idle_minutes=60, idle_policy="always")


def open_session(bench: Bench, user_id: str = "user123") -> str:
    response = bench.client.post("/sessions", json={"user_id": user_id, "ttl_minutes": 1440})
    bench.containers.insides.setdefault(user_id, FakeInside())
    return str(response.json["session_id"])


def inside(bench: Bench, user_id: str = "user123") -> FakeInside:
    return bench.containers.insides[user_id]


def run(bench: Bench, minutes: int) -> None:
    """So many minutes of the thread's rounds."""
    idle = bench.gateway.idle
    for _ in range(minutes):
        bench.clock.advance(minutes=1)
        bench.gateway.queue.serve()
        for session in idle.due():
            idle.examine(session)


def activity(bench: Bench, id: str) -> dict[str, Any]:
    response = bench.client.get(f"/sessions/{id}/activity")
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json
    return found


def lives(bench: Bench, id: str) -> bool:
    return bool(bench.client.get(f"/sessions/{id}").status_code == 200)


def test_a_session_that_nobody_uses_is_warned_and_ends(bench: Bench) -> None:
    id = open_session(bench)
    inside(bench).terminals = 1
    run(bench, 60)
    assert lives(bench, id)
    assert len(inside(bench).shown) == 1
    assert "Nobody has used this session" in inside(bench).shown[0]
    run(bench, 20)
    ended = bench.client.get(f"/sessions/{id}")
    assert (ended.status_code, ended.json["reason"]) == (410, "idle")
    events = bench.client.get(f"/sessions/{id}/events").json["events"]
    assert [event["what"] for event in events[2:]] == ["idle", "closing", "ended"]
    assert bench.leftovers() == {name: [] for name in bench.leftovers()}


@pytest.mark.parametrize(
    "use",
    [
        lambda bench: setattr(inside(bench), "connections", 1),
        lambda bench: setattr(inside(bench), "terminal_seconds", 3),
        lambda bench: setattr(inside(bench), "cpu_microseconds", inside(bench).cpu_microseconds + 9 * 10**8),
        lambda bench: bench.gpus.programs.update({bench.gpus.list()[0].instances[0].mig_uuid: 1}),
        lambda bench: bench.gpus.fail("processes", DriverUnavailable("The driver hangs.")),
        lambda bench: bench.containers.fail("run_inside", ContainerFailed("The exec hangs.")),
    ],
    ids=["connection", "keystroke", "cpu", "gpu process", "driver hangs", "exec hangs"],
)
def test_a_session_that_is_used_or_unknown_never_ends(bench: Bench, use: Any) -> None:
    id = open_session(bench)
    for _ in range(30):
        use(bench)
        run(bench, 5)
    assert lives(bench, id)
    assert activity(bench, id)["state"] == "active"


def test_a_login_after_the_warning_keeps_the_session(bench: Bench) -> None:
    id = open_session(bench)
    run(bench, 63)
    assert len(inside(bench).shown) == 1
    inside(bench).connections = 1
    run(bench, 5)
    inside(bench).connections = 0
    run(bench, 50)
    assert lives(bench, id)
    assert len(inside(bench).shown) == 1
    run(bench, 30)
    assert not lives(bench, id)
    assert len(inside(bench).shown) == 2


def test_a_login_just_before_the_end_keeps_the_session(bench: Bench) -> None:
    id = open_session(bench)
    while activity(bench, id)["ends_at"] is None or not inside(bench).shown:
        run(bench, 1)
    with bench.database.read() as rows:
        session = rows.live(id)
    bench.clock.advance(minutes=10)
    inside(bench).connections = 1
    bench.gateway.idle.examine(session)
    assert lives(bench, id)


def test_a_wish_keeps_the_session_for_as_long_as_asked(bench: Bench) -> None:
    id = open_session(bench)
    run(bench, 60)
    assert bench.client.post(f"/sessions/{id}/keep", json={"minutes": 300}).status_code == 200
    run(bench, 299)
    assert lives(bench, id)
    run(bench, 80)
    assert not lives(bench, id)


def test_nobody_keeps_a_session_for_longer_than_the_policy_allows(bench: Bench) -> None:
    id = open_session(bench)
    refused = bench.client.post(f"/sessions/{id}/keep", json={"minutes": 25 * 60})
    assert (refused.status_code, refused.json["rule"], refused.json["limit"]) == (403, "max_keep_hours", 24)
    bench.client.put("/policies/default", json={"max_keep_hours": 2})
    assert bench.client.post(f"/sessions/{id}/keep", json={"minutes": 121}).status_code == 403
    assert bench.client.post(f"/sessions/{id}/keep", json={"minutes": 120}).status_code == 200
    assert bench.client.post(f"/sessions/{id}/keep", json={"minutes": 0}).json["keep_until"] is None


def test_the_limit_is_the_users_own(bench: Bench) -> None:
    bench.client.put("/policies/user:user123", json={"idle_minutes": 0})
    bench.client.put("/policies/user:user456", json={"idle_minutes": 20})
    never, soon = open_session(bench), open_session(bench, "user456")
    run(bench, 45)
    assert lives(bench, never)
    assert not lives(bench, soon)
    run(bench, 200)
    assert lives(bench, never)
    assert activity(bench, never)["state"] == "off"


def test_without_the_setting_no_session_is_examined(bench_of: BenchMaker) -> None:
    bench = bench_of(FakeGpus(["A100-40GB"]))
    id = open_session(bench)
    run(bench, 300)
    assert "run_inside" not in bench.containers.calls
    assert lives(bench, id)


@pytest.fixture
def courteous(bench_of: BenchMaker) -> Bench:
    """Idle sessions end only if somebody gains."""
    return bench_of(FakeGpus(["A100-40GB"]), idle_minutes=60, idle_policy="waiting")


def fill(bench: Bench) -> tuple[str, str]:
    """Two sessions that leave no room for another 3g; the first one is idle from now on."""
    ids = [
        bench.client.post(
            "/sessions", json={"user_id": user, "mig_profile": "3g.20gb", "ttl_minutes": 1440}
        ).json["session_id"]
        for user in ("user123", "user456")
    ]
    for user in ("user123", "user456"):
        bench.containers.insides.setdefault(user, FakeInside())
    inside(bench, "user456").connections = 1
    return str(ids[0]), str(ids[1])


def wait_for(bench: Bench, profile: str) -> None:
    body = {"user_id": "user789", "mig_profile": profile, "ttl_minutes": 60, "wait_minutes": 5000}
    response = bench.client.post("/sessions", json=body)
    assert response.status_code == 202, response.text


def test_an_idle_session_stays_while_nobody_gains_by_its_end(courteous: Bench) -> None:
    idle, _ = fill(courteous)
    run(courteous, 200)
    assert lives(courteous, idle)
    assert inside(courteous).shown == []


def test_an_idle_session_ends_if_somebody_then_begins_earlier(courteous: Bench) -> None:
    idle, used = fill(courteous)
    run(courteous, 100)
    wait_for(courteous, "3g.20gb")
    run(courteous, 9)
    assert lives(courteous, idle)
    assert len(inside(courteous).shown) == 1
    run(courteous, 6)
    assert not lives(courteous, idle)
    assert lives(courteous, used)


def test_an_operator_reads_who_waits_for_an_idle_session_and_its_user_only_that_somebody_does(
    courteous: Bench,
) -> None:
    idle, used = fill(courteous)
    run(courteous, 30)

    def headline(found: dict[str, Any]) -> str:
        return ActivityInWords(found, Words()).headline(courteous.clock.now)

    found = activity(courteous, idle)
    assert found["waiting"] is None
    assert headline(found).endswith(" if somebody then gets a session earlier.")
    wait_for(courteous, "3g.20gb")
    run(courteous, 1)
    [request] = courteous.client.get("/queue").json["requests"]
    promise = {"mig_profile": "3g.20gb", "promised_at": request["promised_at"]}
    found = activity(courteous, idle)
    assert found["waiting"] == {"user_id": "user789", **promise}
    assert headline(found).endswith(", after a warning: user789 waits for a 3g.20gb.")
    assert activity(courteous, used)["waiting"] is None
    secret = Tokens(courteous.database, courteous.clock).create("own", Role.USER, "user123")
    headers = {"Authorization": f"Bearer {secret}"}
    found = courteous.client.get(f"/sessions/{idle}/activity", headers=headers).json
    assert found["waiting"] == {"user_id": None, **promise}
    assert headline(found).endswith(", after a warning: somebody waits for a 3g.20gb.")


def test_an_idle_session_whose_end_helps_nobody_stays(courteous: Bench) -> None:
    idle, used = fill(courteous)
    wait_for(courteous, "7g.40gb")  # waits for the other session in any case
    courteous.client.post(f"/sessions/{used}/extend", json={"minutes": 60})
    run(courteous, 200)
    assert lives(courteous, idle)
    assert inside(courteous).shown == []


def test_asking_who_gains_changes_no_lease(courteous: Bench) -> None:
    idle, _ = fill(courteous)
    before = courteous.client.get(f"/sessions/{idle}").json["expires_at"]
    wait_for(courteous, "3g.20gb")
    run(courteous, 58)
    assert courteous.client.get(f"/sessions/{idle}").json["expires_at"] == before
    with courteous.database.read() as rows:
        assert rows.live(idle).boot is not None


def test_the_signals_of_a_session_are_explained(bench: Bench) -> None:
    id = open_session(bench)
    assert activity(bench, id)["state"] == "unknown"
    inside(bench).connections = 2
    run(bench, 6)
    found = activity(bench, id)
    assert found["state"] == "active"
    signals = {signal["name"]: (signal["state"], signal["detail"]) for signal in found["signals"]}
    assert signals["connections"] == ("active", "2 open")
    assert signals["gpu"] == ("idle", "no process")
    inside(bench).connections = 0
    run(bench, 6)
    found = activity(bench, id)
    assert found["state"] == "idle"
    assert found["idle_since"] < found["ends_at"]
    assert 'gpu_gateway_session_idle_seconds{session_id="' + id in bench.client.get("/metrics").text


def test_the_command_says_why(bench: Bench, url: str) -> None:
    open_session(bench)

    def why() -> list[str]:
        done = CliRunner().invoke(command, ["why", "user123", "--url", url], catch_exceptions=False)
        return done.output.splitlines()

    assert why()[0] == "UNKNOWN: the signals were not read yet."
    inside(bench).connections = 1
    run(bench, 6)
    assert why()[0] == "ACTIVE, because of: connections."
    assert why()[2].split() == ["connections", "active", "1", "open"]
    inside(bench).connections = 0
    run(bench, 6)
    assert why()[0].startswith("IDLE for ")
    kept = CliRunner().invoke(command, ["keep", "user123", "8h", "--url", url])
    assert kept.output.startswith("user123: Kept until ")
    assert why()[0] == "ACTIVE, because of: keep."
    bench.client.put("/policies/user:user123", json={"idle_minutes": 0})
    assert why()[0] == "Unused sessions of this user do not end: --idle-minutes is 0."


def test_a_wish_that_is_taken_back_leaves_the_session_idle(bench: Bench) -> None:
    id = open_session(bench)
    run(bench, 30)
    since = activity(bench, id)["idle_since"]
    kept = bench.client.post(f"/sessions/{id}/keep", json={"minutes": 60}).json
    assert (kept["state"], kept["idle_since"]) == ("active", None)
    back = bench.client.post(f"/sessions/{id}/keep", json={"minutes": 0}).json
    assert back["state"] == "idle"
    assert back["idle_since"] > since, "the hour begins again"


@pytest.fixture
def strict(bench_of: BenchMaker) -> Bench:
    """Connections count as idle after two silent hours."""
    gpus = FakeGpus(["A100-40GB"])
    return bench_of(gpus, idle_minutes=60, idle_policy="always", idle_connected_minutes=120)


def test_a_connection_that_is_silent_for_long_does_not_keep_the_session(strict: Bench) -> None:
    id = open_session(strict)
    inside(strict).connections = 2
    run(strict, 119)
    assert activity(strict, id)["state"] == "active"
    run(strict, 11)
    connections = activity(strict, id)["signals"][0]
    assert connections["state"] == "idle"
    assert connections["detail"].startswith("2 open, silent for 12")
    run(strict, 60)
    assert not lives(strict, id)


@pytest.mark.parametrize(
    "sign",
    [
        lambda session: setattr(session, "terminal_seconds", 20),
        lambda session: setattr(session, "connections", session.connections + 1),
        lambda session: setattr(session, "first_port", session.first_port + 1),
    ],
    ids=["a keystroke", "another connection", "a connection in place of another"],
)
def test_every_sign_of_somebody_ends_the_silence(strict: Bench, sign: Any) -> None:
    id = open_session(strict)
    inside(strict).connections = 1
    run(strict, 150)
    assert activity(strict, id)["state"] == "idle"
    sign(inside(strict))
    run(strict, 6)
    inside(strict).terminal_seconds = None
    assert activity(strict, id)["state"] == "active"
    run(strict, 100)
    assert activity(strict, id)["state"] == "active"


def test_without_the_setting_a_silent_connection_keeps_the_session(bench: Bench) -> None:
    id = open_session(bench)
    inside(bench).connections = 1
    run(bench, 300)
    assert activity(bench, id)["state"] == "active"


def test_idle_time_is_in_the_report(bench: Bench) -> None:
    open_session(bench)
    inside(bench).connections = 1
    run(bench, 30)
    inside(bench).connections = 0
    run(bench, 31)
    [line] = bench.client.get("/usage?since=2000-01-01&until=2100-01-01").json["usage"]
    assert line["lease_seconds"] == 61 * 60
    assert 20 * 60 <= line["idle_seconds"] <= 30 * 60


def test_other_users_sessions_are_not_found(bench: Bench) -> None:
    from gateway.domain.permissions import Role
    from gateway.services.tokens import Tokens

    id = open_session(bench)
    other = bench.client
    secret = Tokens(bench.database, bench.clock).create("other", Role.USER, "user456")
    other.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {secret}"
    assert other.get(f"/sessions/{id}/activity").status_code == 404
    assert other.post(f"/sessions/{id}/keep", json={"minutes": 5}).status_code == 404
