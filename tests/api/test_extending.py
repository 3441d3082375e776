"""POST /sessions/{id}/extend: who may, how far, and what follows."""

import threading
import time
from collections import Counter
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from pytest_mock import MockerFixture

from gateway.domain.lease import Extension
from gateway.domain.permissions import Role
from gateway.domain.states import Reason
from gateway.errors import DiskFull, SessionEnded
from gateway.services.tokens import Tokens
from tests.conftest import NOTHING, Bench, BenchMaker
from tests.fakes.gpus import FakeGpus

_RACE_SECONDS = 0.004  # about what a transaction takes


def create(bench: Bench, user_id: str = "user123", **body: Any) -> Any:
    answer = bench.client.post("/sessions", json={"user_id": user_id, **body})
    assert answer.status_code == 201, answer.json
    return answer.json


def extend(bench: Bench, session: Any, minutes: Any = 120, **body: Any) -> Any:
    return bench.client.post(f"/sessions/{session['session_id']}/extend", json={"minutes": minutes, **body})


def moved(time: str, **delta: float) -> str:
    return f"{datetime.fromisoformat(time) + timedelta(**delta):%Y-%m-%dT%H:%M:%SZ}"


def etc(bench: Bench, session: Any, name: str) -> str:
    path: Path = bench.settings.state_dir / "sessions" / session["session_id"] / "etc" / name
    return path.read_text()


def test_an_extended_session_is_answered_and_lives_longer(bench: Bench) -> None:
    session = create(bench)
    answer = extend(bench, session)
    assert answer.status_code == 200
    assert answer.json["expires_at"] == moved(session["expires_at"], minutes=120)
    assert answer.json["extended_minutes"] == 120
    bench.clock.advance(minutes=179)
    bench.gateway.reaper.reap()
    assert bench.client.get(f"/sessions/{session['session_id']}").json == answer.json
    bench.clock.advance(minutes=1)
    bench.gateway.reaper.reap()
    assert bench.leftovers() == NOTHING


def test_a_session_says_how_far_it_can_be_extended(bench_of: BenchMaker) -> None:
    bench = bench_of(FakeGpus(["A100-40GB"]), max_ttl_minutes=240)
    session = create(bench)
    assert session["max_expires_at"] == moved(session["created_at"], minutes=240)
    assert session["opened_at"] == session["created_at"]
    assert extend(bench, session, "max").json["max_expires_at"] is None


def test_the_limit_of_a_lease_is_a_setting_of_its_own(bench_of: BenchMaker) -> None:
    bench = bench_of(FakeGpus(["A100-40GB"]), max_ttl_minutes=60, max_lease_minutes=90)
    session = create(bench)
    refused = extend(bench, session, 31)
    assert (refused.status_code, refused.json["type"]) == (403, "/problems/policy")
    assert refused.json["rule"] == "max_lease_minutes"
    assert refused.json["max_expires_at"] == moved(session["created_at"], minutes=90)
    assert "90 minutes" in refused.json["detail"]
    assert extend(bench, session, 30).status_code == 200
    assert extend(bench, session, 1).json["max_expires_at"] is None


def test_a_repeated_request_with_the_end_it_saw_extends_once(bench: Bench) -> None:
    session = create(bench)
    first = extend(bench, session, ends=session["expires_at"])
    again = extend(bench, session, ends=session["expires_at"])
    assert (first.status_code, again.status_code) == (200, 409)
    assert again.json["type"] == "/problems/lease-moved"
    assert again.json["expires_at"] == first.json["expires_at"] == moved(session["expires_at"], minutes=120)


def test_the_end_may_be_written_in_any_time_zone(bench: Bench) -> None:
    session = create(bench)
    seoul = moved(session["expires_at"], hours=9).replace("Z", "+09:00")
    assert extend(bench, session, ends=seoul).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"minutes": 0},
        {"minutes": -5},
        {"minutes": 1.5},
        {"minutes": "120"},
        {"minutes": "2h"},
        {"minutes": True},
        {"minutes": None},
        {"minutes": 10**30},
        {"minutes": [1]},
        {"minutes": 1, "ends": "soon"},
        {"minutes": 1, "ends": 5},
        {"minutes": 1, "override": "yes"},
        {"minutes": 1, "override": 1},
        {"minutes": 1, "until": "18:00"},
        [],
    ],
)
def test_what_is_no_extension_is_refused_and_nothing_moves(bench: Bench, body: Any) -> None:
    session = create(bench)
    answer = bench.client.post(f"/sessions/{session['session_id']}/extend", json=body)
    assert (answer.status_code, answer.json["type"]) == (422, "/problems/invalid-request")
    assert bench.client.get(f"/sessions/{session['session_id']}").json["expires_at"] == session["expires_at"]


def test_an_unknown_and_an_ended_session_are_not_extended(bench: Bench) -> None:
    assert extend(bench, {"session_id": "abc-123-def"}).status_code == 404
    session = create(bench)
    bench.client.delete(f"/sessions/{session['session_id']}")
    assert (extend(bench, session).status_code, extend(bench, session).json["reason"]) == (410, "deleted")


def test_a_lease_that_is_over_is_gone_before_the_reaper_comes(bench: Bench) -> None:
    session = create(bench)
    bench.clock.advance(minutes=60)
    answer = extend(bench, session)
    assert (answer.status_code, answer.json["reason"]) == (410, "expired")
    bench.gateway.reaper.reap()
    assert bench.leftovers() == NOTHING


def test_the_message_of_the_day_and_the_lease_file_follow(bench_of: BenchMaker) -> None:
    bench = bench_of(FakeGpus(["A100-40GB"]), max_ttl_minutes=240)
    session = create(bench)
    assert f"ends={session['expires_at']}\n" in etc(bench, session, "lease")
    assert f"max={session['max_expires_at']}\n" in etc(bench, session, "lease")
    before = etc(bench, session, "motd")
    ends = extend(bench, session, 60).json["expires_at"]
    assert f"ends={ends}\n" in etc(bench, session, "lease")
    after = etc(bench, session, "motd")
    changed = [
        (old, new) for old, new in zip(before.split("\n"), after.split("\n"), strict=True) if old != new
    ]
    assert [line.split()[:2] for pair in changed for line in pair] == [["Lease", "ends"]] * 2
    assert "can be extended" in after
    extend(bench, session, "max")
    assert "max=\n" in etc(bench, session, "lease")
    assert "can be extended" not in etc(bench, session, "motd")


def test_nothing_in_a_session_keeps_the_first_end(bench: Bench) -> None:
    session = create(bench)
    first = [session["expires_at"], session["expires_at"].replace("Z", "+00:00")]
    extend(bench, session)
    directory = bench.settings.state_dir / "sessions" / session["session_id"]
    for file in directory.rglob("*"):
        if file.is_file():
            assert not [each for each in first if each in file.read_text()], file.name


def test_files_that_could_not_be_written_follow_at_the_next_tick(bench: Bench, mocker: MockerFixture) -> None:
    session = create(bench)
    full = mocker.patch.object(type(bench.host.files), "show", side_effect=DiskFull("The disk is full."))
    ends = extend(bench, session).json["expires_at"]
    mocker.stop(full)
    assert ends not in etc(bench, session, "lease")
    bench.reconciler.reconcile()
    assert ends in etc(bench, session, "lease")


def test_the_audit_log_has_who_extended_by_how_much(bench: Bench) -> None:
    session = create(bench)
    ends = extend(bench, session).json["expires_at"]
    extend(bench, session, 30000, override=True)
    events = bench.client.get(f"/sessions/{session['session_id']}/events").json["events"]
    extended = [event for event in events if event["what"] == "extended"]
    shown = ends.replace("T", " ").replace("Z", " UTC")
    assert extended[0]["detail"] == f"120 min, until {shown}"
    assert extended[1]["detail"].endswith("beyond the limit")
    assert {event["actor"] for event in extended} == {"anonymous@127.0.0.1"}


def as_user(bench: Bench, user_id: str) -> dict[str, str]:
    secret = Tokens(bench.database, bench.clock).create(user_id, Role.USER, user_id)
    return {"Authorization": f"Bearer {secret}"}


def test_owners_extend_their_own_session_up_to_the_limit(bench: Bench) -> None:
    session = create(bench)
    path, owner, other = (
        f"/sessions/{session['session_id']}/extend",
        as_user(bench, "user123"),
        as_user(bench, "user456"),
    )
    assert bench.client.post(path, json={"minutes": 60}, headers=owner).status_code == 200
    assert bench.client.post(path, json={"minutes": 60}, headers=other).status_code == 404
    beyond = bench.client.post(path, json={"minutes": 60, "override": True}, headers=owner)
    assert (beyond.status_code, beyond.json["type"]) == (403, "/problems/forbidden")
    assert "override" in beyond.json["detail"]


def test_a_session_that_is_being_opened_can_be_extended(bench: Bench) -> None:
    answers = []

    def extend_meanwhile(container_id: str, address: str) -> None:
        [session] = bench.client.get("/sessions").json["sessions"]
        answers.append(extend(bench, session))

    bench.containers.wait_for_ssh = extend_meanwhile  # type: ignore[method-assign]
    opened = create(bench)
    assert [answer.status_code for answer in answers] == [200]
    assert opened["expires_at"] == answers[0].json["expires_at"]
    assert opened["expires_at"] in etc(bench, opened, "lease")


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_an_extension_at_the_last_moment_is_granted_or_the_session_ends_never_both(
    database: str, request: pytest.FixtureRequest, bench_of: BenchMaker
) -> None:
    """An extension and the reaper race a thousand times, while the clock steps over the end of the lease."""
    changes = {"db": request.getfixturevalue("postgresql_url")} if database == "postgresql" else {}
    bench = bench_of(FakeGpus(["A100-40GB"]), **changes)
    outcomes, random = Counter[bool](), Random(7)
    session_id = bench.sessions.open("user123", timedelta(minutes=1)).session.id
    for _ in range(1000):
        with bench.database.read() as rows:
            left = rows.live(session_id).time_left(bench.clock())
        bench.clock.advance(microseconds=left / timedelta(microseconds=1) - 1)
        granted = race(bench, session_id, random.random() * _RACE_SECONDS, random.random() * _RACE_SECONDS)
        bench.gateway.reaper.reap()
        with bench.database.read() as rows:
            lives, ended = rows.get(session_id) is not None, rows.get_ended(session_id)
        assert lives == granted
        assert granted or ended is not None and ended.reason == Reason.EXPIRED
        outcomes[granted] += 1
        if not lives:
            session_id = bench.sessions.open("user123", timedelta(minutes=1)).session.id
    assert set(outcomes) == {True, False}  # the race was run both ways


def race(bench: Bench, session_id: str, extend_after: float, reap_after: float) -> bool:
    """Whether the extension was granted. The clock steps over the end just before the reaper starts."""
    granted, together = [], threading.Barrier(2)

    def extend_late() -> None:
        together.wait()
        time.sleep(extend_after)
        with suppress(SessionEnded):
            bench.leases.extend(session_id, Extension(timedelta(minutes=1), is_override=True))
            granted.append(session_id)

    thread = threading.Thread(target=extend_late)
    thread.start()
    together.wait()
    time.sleep(reap_after)
    bench.clock.advance(microseconds=1)
    bench.gateway.reaper.reap()
    thread.join()
    return bool(granted)
