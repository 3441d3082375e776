"""The next session says why the last one ended."""

from typing import Any

import pytest

from gateway.domain.permissions import Role
from gateway.domain.ssh_keys import make_pair
from gateway.domain.states import Reason
from gateway.errors import ContainerFailed, DiskFull
from gateway.services.tokens import Tokens
from tests.conftest import Bench, BenchMaker
from tests.fakes.gpus import FakeGpus


def create(bench: Bench, user_id: str = "user123", **body: Any) -> str:
    answer = bench.client.post("/sessions", json={"user_id": user_id, **body})
    assert answer.status_code == 201, answer.json
    return str(answer.json["session_id"])


def last_time(bench: Bench, session_id: str) -> list[str]:
    motd = bench.settings.state_dir / "sessions" / session_id / "etc/motd"
    lines = motd.read_text().splitlines()
    return [line.partition("Last time   ")[2] for line in lines if "Last time" in line]


def test_the_next_session_says_that_the_lease_was_over(bench: Bench) -> None:
    first = create(bench, ttl_minutes=240)
    assert last_time(bench, first) == []
    bench.clock.advance(minutes=240)
    bench.gateway.reaper.reap()
    ended = bench.clock.now.astimezone()
    bench.clock.advance(hours=1)
    second = create(bench)
    assert last_time(bench, second) == [f"ended {ended:%Y-%m-%d %H:%M %Z}: its lease was over, 4 hours"]
    bench.reconciler.reconcile()
    assert len(last_time(bench, second)) == 1


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason != Reason.EXPIRED])
def test_every_reason_has_words(bench: Bench, reason: Reason) -> None:
    bench.sessions.close(create(bench), reason)
    [line] = last_time(bench, create(bench))
    assert len(line.partition(": ")[2].split()) > 2


def test_only_the_last_session_of_the_same_user_counts_and_for_a_week(bench: Bench) -> None:
    bench.sessions.close(create(bench), Reason.GPU_LOST)
    bench.clock.advance(days=1)
    bench.sessions.close(create(bench), Reason.DELETED)
    assert last_time(bench, create(bench, "user456")) == []
    bench.clock.advance(days=6)
    again = create(bench, ttl_minutes=10)
    assert "ended it" in last_time(bench, again)[0]
    bench.sessions.close(again, Reason.DELETED)
    bench.clock.advance(days=8)
    assert last_time(bench, create(bench)) == []


# What the router says to a user without a session.


def notice(bench: Bench, user_id: str = "user123") -> str | None:
    found = bench.notices.get(user_id)
    return found.text if found else None


def test_a_user_whose_lease_is_over_is_told_so_until_the_next_session(bench: Bench, public_key: str) -> None:
    first = create(bench, ttl_minutes=240, ssh_public_keys=[public_key])
    assert notice(bench) is None
    bench.clock.advance(minutes=240)
    bench.gateway.reaper.reap()
    ended = bench.clock.now.astimezone()
    found = bench.notices.get("user123")
    assert found is not None
    assert (found.session_id, found.state) == (first, "ended")
    assert found.public_keys == (" ".join(public_key.split()[:2]),)
    assert found.text == (
        f"Your session (1g.5gb) ended {ended:%Y-%m-%d %H:%M %Z}: its lease was over, 4 hours.\n"
        "Your files are kept. For a new session, ask your administrator."
    )
    create(bench)
    assert notice(bench) is None


def test_the_notice_names_whom_to_ask(bench_of: BenchMaker) -> None:
    bench = bench_of(FakeGpus(["A100-40GB"]), contact="ops@lab.example")
    bench.sessions.close(create(bench))
    assert "ask your administrator (ops@lab.example)." in str(notice(bench))


def test_a_notice_stays_for_its_days_and_goes_with_them(bench_of: BenchMaker) -> None:
    bench = bench_of(FakeGpus(["A100-40GB"]), notice_days=2)
    bench.sessions.close(create(bench))
    bench.clock.advance(days=1, hours=23)
    bench.reconciler.reconcile()
    assert notice(bench)
    bench.clock.advance(hours=2)
    bench.reconciler.reconcile()
    assert bench.notices.users() == set()


def test_without_days_there_are_no_notices(bench_of: BenchMaker) -> None:
    bench = bench_of(FakeGpus(["A100-40GB"]), notice_days=0)
    bench.sessions.close(create(bench))
    bench.reconciler.reconcile()
    assert bench.notices.users() == set()


def test_the_notice_is_there_before_the_route_goes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    session_id, seen = create(bench), []
    monkeypatch.setattr(bench.pipes, "remove", lambda _id: seen.append(notice(bench)))
    bench.sessions.close(session_id, note="driver update")
    assert "driver update" in str(seen[0])


def test_a_notice_that_cannot_be_written_delays_no_end_and_is_written_later(bench: Bench) -> None:
    session_id = create(bench)
    bench.notices.fail(DiskFull("no space"))
    assert bench.sessions.close(session_id)
    assert notice(bench) is None
    bench.notices.fail(None)
    bench.reconciler.reconcile()
    assert "ended it" in str(notice(bench))


def test_stored_keys_prove_the_user_while_they_are_stored(bench: Bench, public_key: str) -> None:
    bench.client.put("/users/user123/keys", json={"ssh_public_keys": [public_key]})
    bench.sessions.close(create(bench))
    found = bench.notices.get("user123")
    assert found is not None
    assert found.public_keys == (" ".join(public_key.split()[:2]),)
    bench.client.put("/users/user123/keys", json={"ssh_public_keys": []})
    assert notice(bench) is None


def test_given_and_stored_keys_both_prove_the_user(bench: Bench, public_key: str) -> None:
    stored = make_pair().public
    bench.client.put("/users/user123/keys", json={"ssh_public_keys": [stored]})
    bench.sessions.close(create(bench, ssh_public_keys=[public_key]))
    found = bench.notices.get("user123")
    assert found is not None
    assert found.public_keys == (" ".join(public_key.split()[:2]), stored)


def test_a_session_that_cannot_be_opened_leaves_a_notice(bench: Bench, public_key: str) -> None:
    bench.client.put("/users/user123/keys", json={"ssh_public_keys": [public_key]})
    bench.containers.fail("run", ContainerFailed("no"))
    assert bench.client.post("/sessions", json={"user_id": "user123"}).status_code == 503
    assert "it could not be opened" in str(notice(bench))


# The administrator's words.


def test_a_note_is_told_to_the_user_the_api_and_the_audit_log(bench: Bench) -> None:
    session_id = create(bench)
    text = "driver update,\n\x1b[31mback at noon"
    assert bench.client.delete(f"/sessions/{session_id}", json={"note": text}).status_code == 204
    shown = "driver update, ?[31mback at noon"
    assert f"an administrator ended it: {shown}." in str(notice(bench))
    gone = bench.client.get(f"/sessions/{session_id}")
    assert (gone.status_code, gone.json["reason"], gone.json["note"]) == (410, "deleted", shown)
    events = bench.client.get(f"/sessions/{session_id}/events").json["events"]
    details = {event["what"]: event["detail"] for event in events}
    assert details["closing"] == details["ended"] == f"deleted: {shown}"
    assert last_time(bench, create(bench))[0].endswith(f": an administrator ended it: {shown}")


def test_a_note_is_optional_and_has_a_form(bench: Bench) -> None:
    session_id = create(bench)
    for body in ({"note": "a" * 501}, {"note": 5}, {"note": "a\0b"}, {"unknown": ""}):
        assert bench.client.delete(f"/sessions/{session_id}", json=body).status_code == 422, body
    assert bench.client.delete(f"/sessions/{session_id}").status_code == 204
    assert bench.client.get(f"/sessions/{session_id}").json["note"] is None


def test_the_notice_names_the_token_that_ended_the_session(bench: Bench) -> None:
    session_id = create(bench)
    secret = Tokens(bench.database, bench.clock).create("ci", Role.OPERATOR)
    headers = {"Authorization": f"Bearer {secret}"}
    assert bench.client.delete(f"/sessions/{session_id}", headers=headers).status_code == 204
    assert ": ci ended it.\n" in str(notice(bench))


def test_what_is_known_of_a_session_is_kept_after_its_end(bench: Bench, public_key: str) -> None:
    session_id = create(bench, ssh_public_keys=[public_key])
    opened = bench.clock.now
    bench.clock.advance(minutes=5)
    bench.sessions.close(session_id, note="done")
    with bench.database.read() as rows:
        ended = rows.get_ended(session_id)
    assert ended is not None
    assert (ended.opened_at, ended.image, ended.note) == (opened, "default", "done")
    assert ended.public_keys == [" ".join(public_key.split()[:2])]
