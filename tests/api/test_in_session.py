"""What a program in a user's session may ask of the API."""

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from werkzeug.test import TestResponse

from gateway.domain.permissions import Role
from gateway.services.tokens import Tokens
from tests.conftest import Bench
from tests.fakes.containers import FakeInside


@pytest.fixture(params=["before the first token", "with tokens"], autouse=True)
def _tokens(request: pytest.FixtureRequest, bench: Bench) -> None:
    """Without a token, every other client of a unix socket is an administrator."""
    if request.param == "with tokens":
        Tokens(bench.database, bench.clock).create("admin", Role.ADMIN)


def create(bench: Bench, user_id: str) -> str:
    return bench.sessions.open(user_id, timedelta(hours=1)).session.id


def uid_of(bench: Bench, user_id: str) -> int:
    with bench.database.read() as rows:
        return rows.user(user_id).uid


def ask(
    bench: Bench, user_id: str, method: str, path: str, headers: dict[str, str] | None = None, **body: Any
) -> TestResponse:
    """As the gate passes it on: the uid is on the connection, and the peer has no address."""
    connection = SimpleNamespace(session_uid=uid_of(bench, user_id))
    return bench.app.test_client().open(
        path,
        method=method,
        headers={"Host": "localhost", **(headers or {})},
        environ_overrides={"gunicorn.socket": connection, "REMOTE_ADDR": ""},
        json=body or None,
    )


def test_a_session_reads_extends_and_ends_itself(bench: Bench) -> None:
    id = create(bench, "user123")
    found: Any = ask(bench, "user123", "GET", f"/sessions/{id}").json
    assert found["user_id"] == "user123"
    extended = ask(bench, "user123", "POST", f"/sessions/{id}/extend", minutes=120)
    assert extended.status_code == 200
    assert '"extended_minutes":120' in extended.text
    assert ask(bench, "user123", "DELETE", f"/sessions/{id}").status_code == 204
    with bench.database.read() as rows:
        actors = {event.what: event.actor for event in rows.events(session_id=id)}
    assert actors["extended"] == actors["closing"] == "user123 (in session)"
    notice = bench.notices.get("user123")
    assert notice is not None
    assert ": you ended it." in notice.text


def test_a_session_sees_no_other_user(bench: Bench) -> None:
    create(bench, "user123")
    other = create(bench, "user456")
    for method in ("GET", "DELETE"):
        assert ask(bench, "user123", method, f"/sessions/{other}").status_code == 404, method
    assert ask(bench, "user123", "POST", f"/sessions/{other}/extend", minutes=1).status_code == 404
    listed: Any = ask(bench, "user123", "GET", "/sessions").json
    [own] = listed["sessions"]
    assert own["user_id"] == "user123"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/sessions"),
        ("GET", "/users/user123/keys"),
        ("PUT", "/users/user123/keys"),
        ("GET", "/events"),
        ("GET", "/gpus"),
        ("PUT", "/gpus/0/cordon"),
        ("POST", "/sessions/any/message"),
        ("PUT", "/sessions/any/keys"),
    ],
)
def test_a_session_may_nothing_else(bench: Bench, method: str, path: str) -> None:
    create(bench, "user123")
    assert ask(bench, "user123", method, path).status_code == 403


def test_a_session_cannot_go_beyond_the_limit(bench: Bench) -> None:
    id = create(bench, "user123")
    refused = ask(bench, "user123", "POST", f"/sessions/{id}/extend", minutes=1, override=True)
    assert refused.status_code == 403


def test_no_token_gives_a_session_more_rights(bench: Bench) -> None:
    create(bench, "user123")
    secret = Tokens(bench.database, bench.clock).create("another", Role.ADMIN)
    for headers in (
        {"Authorization": f"Bearer {secret}"},
        {"Session-Uid": "0", "X-Session-Uid": "0", "X-Forwarded-For": "127.0.0.1"},
    ):
        assert ask(bench, "user123", "GET", "/events", headers).status_code == 403, headers


def test_a_uid_that_is_no_user_s_is_refused(bench: Bench) -> None:
    create(bench, "user123")
    for uid in (0, 65534, uid_of(bench, "user123") + 1):
        connection = SimpleNamespace(session_uid=uid)
        overrides = {"gunicorn.socket": connection, "REMOTE_ADDR": ""}
        answer = bench.app.test_client().get("/sessions", environ_overrides=overrides)
        assert answer.status_code == 401, uid


def test_headers_alone_make_nobody_a_session(bench: Bench) -> None:
    """A TCP client can send headers, which never become the connection's own facts."""
    id, uid = create(bench, "user123"), uid_of(bench, "user123")
    Tokens(bench.database, bench.clock).create("another", Role.ADMIN)
    headers = {"Session-Uid": str(uid), "Gunicorn.Socket": str(uid), "Http-Gunicorn.socket": str(uid)}
    assert bench.app.test_client().get(f"/sessions/{id}", headers=headers).status_code == 401


# In words.

TEXT = {"Accept": "text/plain"}


def test_the_answers_are_sentences_where_text_is_accepted(bench: Bench) -> None:
    id = create(bench, "user123")
    shown = ask(bench, "user123", "GET", f"/sessions/{id}", TEXT).text
    assert shown.startswith("1g.5gb until ")
    assert ": 1 hour left, can be extended to " in shown
    extended = ask(bench, "user123", "POST", f"/sessions/{id}/extend", TEXT, minutes="max").text
    assert extended.endswith(": 7 days left, cannot be extended.\n")
    refused = ask(bench, "user123", "POST", f"/sessions/{id}/extend", TEXT, minutes=1)
    assert refused.status_code == 403
    assert refused.text.startswith("A lease lasts at most 7 days, extensions included: ")
    ended = ask(bench, "user123", "DELETE", f"/sessions/{id}", TEXT)
    assert (ended.status_code, ended.text) == (200, "The session has ended.\n")


def test_what_is_no_json_stays_as_it_is(bench: Bench) -> None:
    id = create(bench, "user123")
    statuses = {("GET", "/ui"): 308, ("GET", f"/ui/sessions/{id}"): 403, ("OPTIONS", f"/sessions/{id}"): 200}
    for (method, path), status in statuses.items():
        answer = ask(bench, "user123", method, path, {"Accept": "text/plain"})
        assert (answer.status_code, answer.mimetype) == (status, "text/html"), path


def test_other_clients_get_json_whatever_they_accept(bench: Bench) -> None:
    assert bench.app.test_client().get("/healthz", headers=TEXT).json == {"status": "ok"}


def in_words(bench: Bench, method: str, path: str, **body: Any) -> str:
    response = ask(bench, "user123", method, path, {"Accept": "text/plain"}, **body)
    assert response.status_code == 200, response.text
    return response.text


def test_a_session_reads_why_it_lives_and_is_kept(bench: Bench) -> None:
    id = create(bench, "user123")
    path = f"/sessions/{id}"
    bench.sessions.policies.set("default", {"idle_minutes": 60})
    assert (
        in_words(bench, "GET", f"{path}/activity").splitlines()[0]
        == "UNKNOWN: the signals were not read yet."
    )
    bench.containers.insides["user123"] = FakeInside()
    with bench.database.read() as rows:
        session = rows.live(id)
    for _ in range(2):
        bench.clock.advance(minutes=5)
        bench.gateway.idle.examine(session)
    headline, *signals, lease = in_words(bench, "GET", f"{path}/activity").splitlines()
    assert headline.startswith("IDLE for 60 seconds; ends after ")
    assert [signal.split(maxsplit=2) for signal in signals] == [
        ["connections", "idle", "none"],
        ["terminals", "idle", "none"],
        ["cpu", "idle", "0.0% of one CPU, idle below 5%"],
        ["gpu", "idle", "no process"],
        ["keep", "idle", "not asked"],
    ]
    assert lease.startswith("The lease ends at ")
    assert in_words(bench, "POST", f"{path}/keep", minutes=480).startswith("Kept until ")
    assert in_words(bench, "GET", f"{path}/activity").startswith("ACTIVE, because of: keep.\n")
    assert in_words(bench, "POST", f"{path}/keep", minutes=0).startswith("Not kept any longer")
    refused = ask(bench, "user123", "POST", f"{path}/keep", {"Accept": "text/plain"}, minutes=1500)
    assert (refused.status_code, refused.text) == (
        403,
        "A session can be kept for at most 24 hours at a time: ask for less, and again later.\n",
    )
    with bench.database.read() as rows:
        kept = [event.actor for event in rows.events(session_id=id) if event.what == "kept"]
    assert kept == ["user123 (in session)"] * 2
