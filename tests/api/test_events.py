"""The audit log: who did what to which session."""

from typing import Any

import pytest

from gateway.background.reaper import Reaper
from gateway.domain.permissions import Role
from gateway.domain.states import Reason
from gateway.errors import ContainerFailed, DockerUnavailable, InvalidRequest
from gateway.services.tokens import Tokens
from tests.conftest import Bench

LOCAL = "anonymous@127.0.0.1"


def create(bench: Bench, user_id: str = "user123") -> str:
    return str(bench.client.post("/sessions", json={"user_id": user_id}).json["session_id"])


def events(bench: Bench, path: str = "/events") -> list[dict[str, Any]]:
    response = bench.client.get(path)
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json["events"]
    return found


def summary(bench: Bench, path: str = "/events") -> list[tuple[str, str]]:
    return [(event["actor"], event["what"]) for event in events(bench, path)]


def reaper(bench: Bench) -> Reaper:
    found: Reaper = bench.gateway.reaper
    return found


def test_the_events_of_a_session_run_from_its_request_to_its_end(bench: Bench) -> None:
    id = create(bench)
    bench.client.delete(f"/sessions/{id}")
    found = events(bench, f"/sessions/{id}/events")
    assert [event["what"] for event in found] == ["created", "opened", "closing", "ended"]
    assert {(event["session_id"], event["user_id"]) for event in found} == {(id, "user123")}
    assert {event["actor"] for event in found} == {LOCAL}
    assert found[0]["detail"].startswith("1g.5gb until ")
    assert [event["detail"] for event in found[2:]] == ["deleted", "deleted"]


def test_the_reapers_events_have_the_reaper_as_actor(bench: Bench) -> None:
    expired = create(bench)
    bench.clock.advance(hours=1)
    reaper(bench).reap()
    exited = create(bench, "user456")
    bench.containers.end(exited)
    reaper(bench).reconcile()
    assert summary(bench, f"/sessions/{expired}/events")[2:] == [("reaper", "closing"), ("reaper", "ended")]
    assert events(bench, f"/sessions/{exited}/events")[2]["detail"] == "user_exit"
    assert summary(bench)[-1] == ("reaper", "ended")


def test_a_session_that_failed_to_open_has_an_event_with_the_reason(bench: Bench) -> None:
    bench.containers.fail("run", ContainerFailed("The disk caught fire."))
    assert bench.client.post("/sessions", json={"user_id": "user123"}).status_code == 503
    assert [(event["what"], event["detail"]) for event in events(bench)[1:]] == [
        ("failed", "The disk caught fire."),
        ("ended", "failed"),
    ]


def test_the_event_of_an_internal_error_has_only_its_type(bench: Bench) -> None:
    bench.containers.fail("run", ValueError("secret"))
    assert bench.client.post("/sessions", json={"user_id": "user123"}).status_code == 500
    assert events(bench)[1]["detail"] == "an internal error: ValueError"


def test_a_repeated_failure_is_recorded_again_only_if_it_changes(bench: Bench) -> None:
    id = create(bench)
    bench.containers.fail("remove", DockerUnavailable("Out of reach."))
    bench.client.delete(f"/sessions/{id}")
    for failure in ("Out of reach.", "Out of reach.", "Refused."):
        bench.containers.fail("remove", DockerUnavailable(failure))
        reaper(bench).reconcile()
    bench.containers.fail("remove", None)
    reaper(bench).reconcile()
    after = events(bench, f"/sessions/{id}/events")[2:]
    assert [(event["what"], event["detail"]) for event in after] == [
        ("closing", "deleted"),
        ("retry", "Out of reach."),
        ("retry", "Refused."),
        ("ended", "deleted"),
    ]
    assert [event["actor"] for event in after] == [LOCAL, LOCAL, "reaper", "reaper"]


def test_a_faulty_gpu_and_its_recovery_are_recorded_once_each(bench: Bench) -> None:
    id = create(bench)
    [gpu] = bench.gpus.list()
    for fault in ("it needs a reset", "it needs a reset", None, None):
        bench.gpus.set_fault(gpu.uuid, fault)
        reaper(bench).reconcile()
    assert summary(bench, f"/sessions/{id}/events")[2:] == [("reaper", "problem"), ("reaper", "recovered")]


def test_the_removal_of_a_leftover_is_recorded(bench: Bench) -> None:
    id = create(bench)
    with bench.database.begin() as rows:
        row = rows.get(id)
        assert row is not None
        row.close(Reason.FAILED)
        rows.end(row, bench.clock.now)
    reaper(bench).reconcile()
    assert summary(bench, f"/sessions/{id}/events")[-1] == ("reaper", "orphan-removed")


def test_changes_of_keys_and_cordons_are_recorded(bench: Bench, public_key: str) -> None:
    bench.client.put("/users/user123/keys", json={"ssh_public_keys": [public_key]})
    bench.client.put("/gpus/0/cordon", json={"reason": "fan"})
    bench.client.delete("/gpus/0/cordon")
    found = events(bench)
    assert [event["what"] for event in found] == ["keys-changed", "cordoned", "uncordoned"]
    assert (found[0]["user_id"], found[0]["detail"]) == ("user123", "1 stored")
    assert found[1]["detail"].endswith(": fan")
    assert {event["session_id"] for event in found} == {None}


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def test_the_actor_is_the_name_of_the_token(bench: Bench, public_key: str) -> None:
    ci = bearer(Tokens(bench.database, bench.clock).create("ci", Role.ADMIN))
    session = bench.client.post("/sessions", json={"user_id": "user123"}, headers=ci).json["session_id"]
    keys = {"ssh_public_keys": [public_key]}
    bench.client.put(f"/sessions/{session}/keys", json=keys, headers=ci)
    bench.client.put("/users/user123/keys", json=keys, headers=ci)
    bench.client.delete(f"/sessions/{session}", headers=ci)
    bench.client.put("/gpus/0/cordon", json={}, headers=ci)
    bench.client.delete("/gpus/0/cordon", headers=ci)
    found = bench.client.get("/events", headers=ci).json["events"]
    assert [(event["actor"], event["what"]) for event in found] == [
        ("gateway", "token-created"),
        ("ci", "created"),
        ("ci", "opened"),
        ("ci", "keys-changed"),
        ("ci", "keys-changed"),
        ("ci", "closing"),
        ("ci", "ended"),
        ("ci", "cordoned"),
        ("ci", "uncordoned"),
    ]


def denials(bench: Bench) -> list[tuple[str, str, str | None]]:
    with bench.database.read() as rows:
        return [
            (event.actor, event.detail, event.user_id) for event in rows.events() if event.what == "denied"
        ]


def test_a_denial_is_recorded_with_its_caller_and_request(bench: Bench) -> None:
    tokens = Tokens(bench.database, bench.clock)
    user = bearer(tokens.create("u", Role.USER, "user123"))
    bench.client.get("/sessions")
    bench.client.delete("/sessions/abc", headers=bearer("gsg_wrong"))
    bench.client.get("/a%00b%0a" + "c" * 300, environ_base={"REMOTE_ADDR": "192.0.2.7"})
    bench.client.get("/events", headers=user)
    bench.client.post("/sessions", json={"user_id": "user456"}, headers=user)
    assert denials(bench) == [
        (LOCAL, "no token: GET /sessions", None),
        (LOCAL, "invalid token: DELETE /sessions/abc", None),
        ("anonymous@192.0.2.7", "no token: GET /a?b?" + "c" * 195, None),
        ("u", "role user: GET /events", "user123"),
        ("u", "acting for user456: POST /sessions", "user123"),
    ]


def test_the_number_of_recorded_denials_is_limited(bench: Bench) -> None:
    user = bearer(Tokens(bench.database, bench.clock).create("u", Role.USER, "user123"))
    for _ in range(30):
        assert bench.client.get("/events", headers=user).status_code == 403
    assert len(denials(bench)) == 21
    assert denials(bench)[-1] == (
        "u",
        "role user: GET /events; further denials of this minute are not recorded",
        "user123",
    )
    bench.clock.advance(minutes=1)
    bench.client.get("/events", headers=user)
    assert len(denials(bench)) == 22


def test_the_first_429_is_recorded(bench: Bench) -> None:
    Tokens(bench.database, bench.clock).create("ci", Role.ADMIN)
    statuses = [bench.client.get("/sessions").status_code for _ in range(23)]
    assert statuses == [401] * 20 + [429] * 3
    assert len(denials(bench)) == 21
    assert denials(bench)[-1][1].endswith("further denials of this minute are not recorded")


def test_unauthenticated_clients_with_many_addresses_share_one_limit(bench: Bench) -> None:
    Tokens(bench.database, bench.clock).create("ci", Role.ADMIN)
    for number in range(250):
        away = {"REMOTE_ADDR": f"192.0.2.{number}"}
        assert bench.client.get("/sessions", environ_base=away).status_code == 401
    assert len(denials(bench)) == 201


def test_the_addresses_of_one_ipv6_network_count_as_one_client(bench: Bench) -> None:
    Tokens(bench.database, bench.clock).create("ci", Role.ADMIN)
    for number in range(20):
        away = {"REMOTE_ADDR": f"2001:db8::{number:x}"}
        assert bench.client.get("/sessions", environ_base=away).status_code == 401
    others = ("2001:db8:0:1::1", "::ffff:192.0.2.1", "::ffff:192.0.2.2")  # the last two are of IPv4
    for address, status in (("2001:db8::ffff%eth0", 429), *((other, 401) for other in others * 10)):
        away = {"REMOTE_ADDR": address}
        assert bench.client.get("/sessions", environ_base=away).status_code == status
    assert denials(bench)[0][0] == "anonymous@2001:db8::0"


@pytest.mark.parametrize("name", ["reaper", "gateway"])
def test_no_token_can_have_a_name_of_the_gateway(bench: Bench, name: str) -> None:
    with pytest.raises(InvalidRequest, match="audit log"):
        Tokens(bench.database, bench.clock).create(name, Role.ADMIN)


def test_a_user_reads_the_events_of_their_own_sessions_only(bench: Bench) -> None:
    own, other = create(bench), create(bench, "user456")
    user = Tokens(bench.database, bench.clock).create("u", Role.USER, "user123")
    header = {"Authorization": f"Bearer {user}"}
    assert bench.client.get(f"/sessions/{own}/events", headers=header).status_code == 200
    assert bench.client.get(f"/sessions/{other}/events", headers=header).status_code == 404


def test_events_of_an_unknown_session_are_not_found(bench: Bench) -> None:
    response = bench.client.get("/sessions/never/events")
    assert (response.status_code, response.json["type"]) == (404, "/problems/session-not-found")


def test_events_are_filtered_by_session_user_time_id_and_number(bench: Bench) -> None:
    first = create(bench)
    bench.clock.advance(minutes=1)
    second = create(bench, "user456")
    assert len(events(bench)) == 4
    assert {event["session_id"] for event in events(bench, f"/events?session_id={first}")} == {first}
    assert {event["session_id"] for event in events(bench, "/events?user_id=user456")} == {second}
    assert len(events(bench, f"/events?since={bench.clock.now:%Y-%m-%dT%H:%M:%SZ}")) == 2
    latest = events(bench, "/events?limit=1")
    assert [(event["session_id"], event["what"]) for event in latest] == [(second, "opened")]
    assert events(bench, f"/events?after={latest[0]['id']}") == []


def test_who_reads_on_after_the_last_event_misses_none(bench: Bench) -> None:
    for user_id in ("ann", "bob", "cyn"):
        create(bench, user_id)
    read: list[dict[str, Any]] = []
    while page := events(bench, f"/events?limit=4&after={read[-1]['id'] if read else 0}"):
        read += page
    assert read == events(bench)


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=x", "since=yesterday", "after=-1", "from=1", f"after={2**63}"]
)
def test_an_invalid_query_is_refused(bench: Bench, query: str) -> None:
    response = bench.client.get(f"/events?{query}")
    assert (response.status_code, list(response.json["errors"])) == (422, [query.split("=")[0]])


def test_events_are_deleted_after_the_days_of_the_history(bench: Bench) -> None:
    create(bench)
    bench.clock.advance(days=29)
    bench.reconciler.reconcile()
    assert len(events(bench)) == 2
    bench.clock.advance(days=2)
    bench.reconciler.reconcile()
    assert events(bench) == []
