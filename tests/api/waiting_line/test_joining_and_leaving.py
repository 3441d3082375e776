"""Requests that join the line, wait in it, and leave it."""

from typing import Any

import pytest

from gateway.domain.notice import NoticeState
from gateway.domain.permissions import Role
from gateway.services.tokens import Tokens
from tests.api.waiting_line.conftest import ask, end, moved, read, serve, waiting
from tests.conftest import Bench


@pytest.mark.parametrize(
    ("method", "what", "body"),
    [
        ("GET", "activity", None),
        ("POST", "extend", {"minutes": 5}),
        ("POST", "keep", {"minutes": 5}),
        ("POST", "message", {"text": "hello"}),
        ("PUT", "keys", {"ssh_public_keys": []}),
    ],
)
def test_a_request_in_line_has_no_session_yet_to_act_on(
    full: Bench, method: str, what: str, body: Any
) -> None:
    request = waiting(full, "ben")
    answer = full.client.open(f"/sessions/{request['session_id']}/{what}", method=method, json=body)
    assert (answer.status_code, answer.json["type"]) == (409, "/problems/session-waits")
    assert "ben still waits in line" in answer.json["detail"]


def test_for_another_user_a_request_in_line_is_not_there(full: Bench) -> None:
    request = waiting(full, "ben")
    token = Tokens(full.database, full.clock).create("cyn", Role.USER, "cyn")
    path, header = f"/sessions/{request['session_id']}", {"Authorization": f"Bearer {token}"}
    answer = full.client.post(f"{path}/extend", json={"minutes": 5}, headers=header)
    assert (answer.status_code, answer.json["type"]) == (404, "/problems/session-not-found")


def test_only_a_request_in_line_has_a_priority(full: Bench) -> None:
    [ann] = full.client.get("/sessions").json["sessions"]
    live = full.client.put(f"/queue/{ann['session_id']}", json={"priority": 5})
    assert (live.status_code, live.json["type"]) == (409, "/problems/not-in-line")
    request = waiting(full, "ben")
    end(full, request)
    gone = full.client.put(f"/queue/{request['session_id']}", json={"priority": 5})
    assert (gone.status_code, gone.json["reason"]) == (410, "deleted")
    assert full.client.put("/queue/never", json={"priority": 5}).status_code == 404


def test_a_request_that_fits_is_opened_at_once_also_if_it_would_wait(bench: Bench) -> None:
    assert ask(bench, "ann").status_code == 201


def test_a_full_server_answers_503_without_a_wait_and_202_with_one(full: Bench) -> None:
    assert ask(full, "ben", 0).status_code == 503
    answer = ask(full, "ben")
    assert answer.status_code == 202
    request = answer.json
    assert answer.headers["Location"].endswith(f"/sessions/{request['session_id']}")
    assert (request["status"], request["position"]) == ("waiting", 1)
    ann = full.client.get("/sessions").json["sessions"][0]
    assert request["promised_at"] == moved(ann["expires_at"], minutes=1)
    assert request["wait_until"] == moved(request["created_at"], minutes=240)
    assert request["ssh_command"] == "ssh ben@ssh.gw"
    assert "PRIVATE KEY" in request["ssh_private_key"]
    assert "ssh_private_key" not in read(full, request).json


def test_one_request_or_one_session_a_user(full: Bench) -> None:
    ben = waiting(full, "ben")
    again = ask(full, "ben")
    assert (again.status_code, again.json["session_id"]) == (409, ben["session_id"])
    assert "waits in line" in again.json["detail"]
    small = ask(full, "ben", 0, mig_profile="1g.5gb")
    assert small.status_code == 409
    assert ask(full, "ann").status_code == 409


def test_a_request_leaves_the_line_by_delete(full: Bench) -> None:
    ben, cem = waiting(full, "ben"), waiting(full, "cem")
    assert full.client.delete(f"/sessions/{ben['session_id']}").status_code == 204
    gone = read(full, ben)
    assert (gone.status_code, gone.json["reason"]) == (410, "deleted")
    assert read(full, cem).json["promised_at"] == ben["promised_at"]


def test_a_request_gives_up_when_its_wait_is_over(full: Bench) -> None:
    ben = waiting(full, "ben", 30)
    assert ben["promised_at"] is None
    full.clock.advance(minutes=30)
    serve(full)
    gone = read(full, ben)
    assert (gone.status_code, gone.json["reason"]) == (410, "gave_up")
    notice = full.notices.get("ben")
    assert notice
    assert notice.state is NoticeState.ENDED
    assert "nothing became free within 30 minutes" in notice.text


def test_a_request_in_line_counts_as_demand_once(full: Bench) -> None:
    waiting(full, "ben")
    ask(full, "cem", 0, mig_profile="3g.20gb")
    with full.database.read() as rows:
        assert rows.demand() == {"7g.40gb": 2, "3g.20gb": 1}
    full.clock.advance(minutes=60)
    serve(full)
    with full.database.read() as rows:
        assert rows.demand() == {"7g.40gb": 2, "3g.20gb": 1}


@pytest.mark.parametrize("wait", [-1, 10081, True, "4h", 1.5, None])
def test_what_is_no_wait_is_refused(full: Bench, wait: Any) -> None:
    assert ask(full, "ben", wait).status_code == 422


def test_an_unknown_profile_does_not_wait(full: Bench) -> None:
    assert ask(full, "ben", mig_profile="9g.90gb").status_code == 422
