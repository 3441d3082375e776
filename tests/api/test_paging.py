"""Lists in pages: GET /sessions, /queue and /gpus with `limit` and `after`."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, insert

from gateway.client import Client
from gateway.domain.models import Session, User
from gateway.domain.permissions import Role
from gateway.domain.ssh_keys import make_pair
from gateway.domain.waiting_request import WaitingRequest
from gateway.services.tokens import Tokens
from tests.conftest import Bench, BenchMaker
from tests.fakes.gpus import FakeGpus

USERS = [f"user{number}" for number in range(7)]


@pytest.fixture
def bench(bench_of: BenchMaker) -> Bench:
    """Rows of seven sessions. The first three began in the same second."""
    made, pair = bench_of(FakeGpus(["A100-40GB"] * 3)), make_pair()
    now = made.clock().wall
    rows_of_users = [{"id": user, "uid": 30000 + number} for number, user in enumerate(USERS)]
    sessions = [
        {
            "id": f"00000000-0000-4000-8000-{number:012}",
            "user_id": user,
            "status": "active",
            "mig_profile": "1g.5gb",
            "gpu": "GPU-of-another-host",
            "start": number,
            "size": 1,
            "address": f"10.213.1.{number + 1}",
            "public_keys": [pair.public],
            "private_key": pair.private,
            "host_key": pair.public,
            "created_at": now + timedelta(seconds=max(0, number - 2)),
            "expires_at": now + timedelta(hours=1),
            "lease_seconds": 3600,
        }
        for number, user in enumerate(USERS)
    ]
    with made.database.engine.begin() as connection:
        connection.execute(insert(User), rows_of_users)
        connection.execute(insert(Session), sessions)
    return made


def pages(bench: Bench, path: str, name: str, limit: int) -> list[list[Any]]:
    found, after = list[list[Any]](), ""
    while len(found) < 20:
        body = bench.client.get(f"{path}?limit={limit}{after}").json
        assert body
        found.append(body[name])
        if body["next"] is None:
            break
        after = f"&after={body['next']}"
    return found


def test_the_pages_of_sessions_are_the_whole_list(bench: Bench) -> None:
    whole = bench.client.get("/sessions").json
    assert whole
    assert "next" not in whole
    for limit in (1, 2, 3, 6, 7, 8):
        found = pages(bench, "/sessions", "sessions", limit)
        assert [session for page in found for session in page] == whole["sessions"]
        assert all(len(page) == limit for page in found[:-1])
        assert found[-1]


def test_a_page_begins_behind_a_session_that_has_ended_meanwhile(bench: Bench) -> None:
    first = bench.client.get("/sessions?limit=2").json
    assert first
    bench.sessions.close(first["sessions"][-1]["session_id"])
    second = bench.client.get(f"/sessions?limit=10&after={first['next']}").json
    assert second
    assert second["next"] is None
    seen = [session["user_id"] for session in (*first["sessions"], *second["sessions"])]
    assert sorted(seen) == USERS


def test_a_list_without_items_has_one_empty_page(bench_of: BenchMaker) -> None:
    empty = bench_of(FakeGpus(["A100-40GB"]))
    assert empty.client.get("/sessions?limit=5").json == {"sessions": [], "next": None}
    assert empty.client.get("/queue?limit=5").json == {"requests": [], "next": None}


def test_the_pages_of_gpus_are_the_whole_list(bench: Bench) -> None:
    whole = bench.client.get("/gpus").json
    found = pages(bench, "/gpus", "gpus", 2)
    assert [len(page) for page in found] == [2, 1]
    assert whole
    assert [gpu for page in found for gpu in page] == whole["gpus"]


def test_the_pages_of_the_line_keep_the_positions(bench_of: BenchMaker) -> None:
    full = bench_of(FakeGpus(["A100-40GB"]))
    for number in range(4):
        body = {"user_id": f"user{number}", "mig_profile": "7g.40gb", "wait_minutes": 600, "ttl_minutes": 30}
        assert full.client.post("/sessions", json=body).status_code == (202 if number else 201)
    whole = full.client.get("/queue").json
    found = pages(full, "/queue", "requests", 2)
    assert whole
    assert [request for page in found for request in page] == whole["requests"]
    assert [request["position"] for page in found for request in page] == [1, 2, 3]


def test_the_place_of_one_request_is_counted_and_no_other_request_is_read(bench_of: BenchMaker) -> None:
    full = bench_of(FakeGpus(["A100-40GB"]))
    for number in range(6):
        body = {"user_id": f"user{number}", "mig_profile": "7g.40gb", "wait_minutes": 600, "ttl_minutes": 30}
        full.client.post("/sessions", json=body)
    whole = full.client.get("/queue").json["requests"]
    assert full.client.put(f"/queue/{whole[3]['session_id']}", json={"priority": 5}).status_code == 200
    whole = full.client.get("/queue").json["requests"]
    assert [request["user_id"] for request in whole] == ["user4", "user1", "user2", "user3", "user5"]
    read: list[str] = []

    def note(request: WaitingRequest, _context: object) -> None:
        read.append(request.user_id)

    event.listen(WaitingRequest, "load", note)
    try:
        found = [full.client.get(f"/queue?user_id={each['user_id']}").json["requests"] for each in whole]
    finally:
        event.remove(WaitingRequest, "load", note)
    assert found == [[each] for each in whole]
    assert read == [each["user_id"] for each in whole]


def test_the_lists_of_one_user_have_the_session_and_the_place_in_line(bench_of: BenchMaker) -> None:
    full = bench_of(FakeGpus(["A100-40GB"]))
    for number in range(4):
        body = {"user_id": f"user{number}", "mig_profile": "7g.40gb", "wait_minutes": 600, "ttl_minutes": 30}
        full.client.post("/sessions", json=body)
    [session] = full.client.get("/sessions?user_id=user0").json["sessions"]
    assert session["user_id"] == "user0"
    assert full.client.get("/sessions?user_id=user2").json == {"sessions": []}
    [request] = full.client.get("/queue?user_id=user2").json["requests"]
    assert (request["user_id"], request["position"]) == ("user2", 2)
    assert full.client.get("/queue?user_id=user2&limit=1&after=1").json["requests"] == [request]
    assert full.client.get("/queue?user_id=user0").json == {"requests": []}
    assert full.client.get("/sessions?user_id=a%20b").status_code == 422


@pytest.mark.parametrize("path", ["/sessions", "/queue"])
def test_a_user_cannot_ask_for_the_list_of_another_one(bench: Bench, path: str) -> None:
    token = Tokens(bench.database, bench.clock).create("mine", Role.USER, "user3")
    headers = {"Authorization": f"Bearer {token}"}
    assert bench.client.get(f"{path}?user_id=user3", headers=headers).status_code == 200
    assert bench.client.get(f"{path}?user_id=user4", headers=headers).status_code == 403


def test_the_database_finds_a_page_of_sessions_by_an_index(bench: Bench) -> None:
    statements: list[tuple[str, Any]] = []

    @event.listens_for(bench.database.engine, "before_cursor_execute")
    def note(_connection: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
        if "FROM sessions" in statement:
            statements.append((statement, values))

    bench.client.get("/sessions?limit=3")
    [(statement, values)] = statements
    with bench.database.engine.connect() as connection:
        plan = str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values).all())
    assert "sessions_in_order" in plan
    assert "TEMP B-TREE" not in plan  # nothing is sorted


@pytest.mark.parametrize("path", ["/sessions", "/queue", "/gpus"])
def test_a_page_that_cannot_be_is_422(bench: Bench, path: str) -> None:
    for query in ("limit=0", "limit=1001", "limit=x", "after=x", "after=-1"):
        response = bench.client.get(f"{path}?{query}")
        assert response.status_code == 422
        assert response.json
        assert query.partition("=")[0] in response.json["errors"]


@pytest.mark.parametrize("after", ["1", "1.", "1.a%00", f"{'9' * 18}.a", ".a"])
def test_an_after_that_no_page_of_sessions_has_is_422(bench: Bench, after: str) -> None:
    assert bench.client.get(f"/sessions?after={after}").status_code == 422


def test_a_user_has_pages_of_their_own_sessions_only(bench: Bench) -> None:
    with bench.database.read() as rows:
        [own] = rows.page("user3", None, 5)
        assert own.user_id == "user3"
        assert rows.page("user3", (own.created_at, own.id), 5) == []


def test_the_client_reads_all_pages(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.client._PAGE", 3)
    assert [session["user_id"] for session in Client(url).list("/sessions", "sessions")] == USERS
