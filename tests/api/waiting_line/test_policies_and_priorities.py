"""What policies say about waiting."""

from typing import Any

from tests.api.waiting_line.conftest import ask, events, opened, read, serve, waiting
from tests.conftest import Bench


def set_policy(bench: Bench, name: str, **rules: Any) -> None:
    assert bench.client.put(f"/policies/{name}", json=rules).status_code == 200


def test_a_policy_limits_the_wait_also_of_a_request_that_fits_now(bench: Bench) -> None:
    set_policy(bench, "default", max_wait_minutes=120)
    refused = ask(bench, "ann", 121)
    assert (refused.status_code, refused.json["rule"]) == (403, "max_wait_minutes")
    assert (refused.json["limit"], refused.json["used"], refused.json["retry_at"]) == (120, 121, None)
    assert "a wait of 121 minutes: the longest is 120 minutes" in refused.json["detail"]
    opened(bench, "ann", ttl_minutes=60)
    assert ask(bench, "ben", 121).status_code == 403
    assert bench.client.get("/queue").json["requests"] == []
    waiting(bench, "ben", 120)
    waiting(bench, "cleo", 121, override=True)


def test_a_user_whose_policy_forbids_waiting_gets_a_session_that_fits(bench: Bench) -> None:
    set_policy(bench, "user:ann", max_wait_minutes=0)
    assert ask(bench, "ann", 1).status_code == 403
    opened(bench, "ann")


def test_a_request_joins_the_line_with_the_priority_of_its_policy(full: Bench) -> None:
    set_policy(full, "staff", priority=10)
    set_policy(full, "user:guest", priority=-5)
    full.client.put("/users/prof", json={"group": "staff"})
    guest, ben = waiting(full, "guest"), waiting(full, "ben")
    prof = waiting(full, "prof")
    line = full.client.get("/queue").json["requests"]
    assert [(each["user_id"], each["priority"]) for each in line] == [("prof", 10), ("ben", 0), ("guest", -5)]
    assert prof["promised_at"] == ben["promised_at"] == guest["promised_at"]
    assert line == sorted(line, key=lambda each: each["promised_at"])
    assert events(full, ben) == ["waiting", "promise-delayed"]
    assert events(full, guest) == ["waiting", "promise-delayed", "promise-delayed"]
    delays = full.client.get(f"/sessions/{ben['session_id']}/events").json["events"][1]["detail"]
    assert delays.startswith("priority: from ")


def test_requests_of_equal_priority_overtake_nobody(full: Bench) -> None:
    set_policy(full, "default", priority=7)
    first, promised = waiting(full, "ben"), waiting(full, "cleo")["promised_at"]
    waiting(full, "dave")
    second = full.client.get("/queue").json["requests"][1]
    assert (second["user_id"], second["promised_at"]) == ("cleo", promised)
    assert events(full, first) == ["waiting"]


def test_a_request_in_line_keeps_what_it_was_promised_when_its_policy_changes(full: Bench) -> None:
    set_policy(full, "default", priority=5)
    ben = waiting(full, "ben", ttl_minutes=60)
    set_policy(
        full, "default", priority=-5, max_ttl_minutes=10, max_wait_minutes=0, may_start=False, profiles=[]
    )
    full.client.put("/users/ben", json={"group": "guests"})
    after = read(full, ben).json
    assert {**after, "ssh_private_key": None} == {**ben, "ssh_private_key": None}
    full.clock.advance(minutes=62)
    serve(full)
    assert read(full, ben).json["status"] == "active"
