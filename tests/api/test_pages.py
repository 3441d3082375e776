"""The web pages: who may see and do what on them, and what a browser gets."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import TestResponse

from gateway.database_url import DatabaseUrl
from gateway.domain.models import Event
from gateway.domain.permissions import Role
from gateway.errors import DriverUnavailable
from gateway.services.sign_ins import LIFETIME
from gateway.services.tokens import Tokens
from tests.client import Answer, ApiClient
from tests.conftest import Bench, BenchMaker
from tests.fakes.gpus import FakeGpus

ORIGIN = {"Origin": "http://localhost"}


def send(client: ApiClient, path: str, **fields: str) -> Answer:
    """What a browser sends for a form of the pages."""
    return client.post(f"/ui{path}", data=fields, headers=ORIGIN)


def signed_in(bench: Bench, token: str) -> ApiClient:
    client = bench.client
    assert send(client, "/sign-in", token=token).status_code == 303
    return client


def as_user(bench: Bench, tokens: Tokens, user_id: str = "user123") -> ApiClient:
    return signed_in(bench, tokens.create(f"of-{user_id}", Role.USER, user_id))


def as_operator(bench: Bench, tokens: Tokens) -> ApiClient:
    return signed_in(bench, tokens.create("ops", Role.OPERATOR))


def opened(bench: Bench, user_id: str = "user123") -> str:
    return bench.sessions.open(user_id, LIFETIME, "3g.20gb", None).session.id


def events(bench: Bench) -> list[Event]:
    with bench.database.read() as rows:
        return list(rows.events())


def test_without_any_token_the_pages_are_open_to_this_machine_as_the_api_is(bench: Bench) -> None:
    assert bench.client.get("/ui/").status_code == 200


def test_who_has_not_signed_in_is_sent_to_the_form(bench: Bench, tokens: Tokens) -> None:
    tokens.create("ops", Role.OPERATOR)
    for path in ("/ui/", "/ui/sessions", "/ui/events", "/ui/health", "/ui/create"):
        answer = bench.client.get(path)
        assert (answer.status_code, answer.location) == (303, "/ui/sign-in"), path


@pytest.mark.parametrize("role", [Role.OPERATOR, None])
def test_the_address_without_its_last_slash_leads_to_the_first_page(
    bench: Bench, tokens: Tokens, role: Role | None
) -> None:
    token = tokens.create("ops", Role.OPERATOR)
    answer = (signed_in(bench, token) if role else bench.client).get("/ui")
    assert (answer.status_code, answer.location) == (308, "/ui/")
    assert "denied" not in [event.what for event in events(bench)]


@pytest.mark.parametrize("removed", [True, False], ids=["the proxy removes the path", "or keeps it"])
def test_behind_a_proxy_the_pages_are_under_its_path(bench_of: BenchMaker, removed: bool) -> None:
    bench = bench_of(FakeGpus(["A100-40GB"]), public_url="https://gw.example.org:8443/gpu")
    token = Tokens(bench.database, bench.clock).create("ops", Role.OPERATOR)
    client = bench.app.test_client(use_cookies=False)  # its jar does not know what a proxy does to the path
    own = {"Host": "gw.example.org", "Origin": "https://gw.example.org:8443"}  # nginx leaves the port out

    def asked(method: str, path: str, **fields: str) -> TestResponse:
        sent = path.removeprefix("/gpu") if removed else path
        return client.open(sent, method=method, data=fields or None, headers=own)

    assert asked("GET", "/gpu/ui").location == "/gpu/ui/"
    assert asked("GET", "/gpu/ui/").location == "/gpu/ui/sign-in"
    signed = asked("POST", "/gpu/ui/sign-in", token=token)
    assert signed.location == "/gpu/ui/"
    cookie, *limits = signed.headers["Set-Cookie"].split("; ")
    assert "Path=/gpu/ui" in limits
    own["Cookie"] = cookie
    page = asked("GET", "/gpu/ui/").text
    links = re.findall(r'(?:href|src|action|hx-get)="([^"#]*)"', page)
    assert len(links) > 10
    assert [link for link in links if not link.startswith("/gpu/ui/")] == []
    assert '"servers":[{"url":"/gpu"}]' in asked("GET", "/gpu/openapi.json").text
    made = bench.client.post(
        "/sessions", json={"user_id": "ann"}, headers={"Authorization": f"Bearer {token}"}
    )
    assert made.headers["Location"] == f"https://gw.example.org:8443/gpu/sessions/{made.json['session_id']}"


@pytest.mark.parametrize("path", ["/gpus", "/ui", "/sessions"])
def test_the_path_of_a_proxy_may_be_one_of_the_gateways_own(bench_of: BenchMaker, path: str) -> None:
    bench = bench_of(FakeGpus(["A100-40GB"]), public_url=f"https://gw.example.org{path}")
    assert bench.client.get("/gpus/profiles").status_code == 200
    assert bench.client.get("/ui/").status_code == 200
    assert bench.client.get("/sessions").status_code == 200


def test_a_page_that_does_not_exist_is_said_on_a_page(bench: Bench, tokens: Tokens) -> None:
    client = as_operator(bench, tokens)
    for path in ("/ui/sesions", "/ui/sessions/a/b", "/ui/language", "/ui/<script>"):
        answer = client.get(path)
        assert (answer.status_code, answer.mimetype) == (404, "text/html"), path
        assert "The gateway has no path" in answer.text
        assert "<script>" not in answer.text
    assert bench.client.get("/ui/sesions").location == "/ui/sign-in"


def test_a_form_that_is_too_large_is_refused_on_a_page(bench: Bench, tokens: Tokens) -> None:
    answer = send(as_operator(bench, tokens), "/create", user_id="x" * 600_000)
    assert (answer.status_code, answer.mimetype) == (413, "text/html")
    assert "A body has at most 512 KiB" in answer.text


def test_a_poll_of_who_has_not_signed_in_moves_the_whole_page_to_the_form(
    bench: Bench, tokens: Tokens
) -> None:
    tokens.create("ops", Role.OPERATOR)
    answer = bench.client.get("/ui/", headers={"HX-Request": "true"})
    assert (answer.status_code, answer.headers["HX-Redirect"]) == (401, "/ui/sign-in")


def test_a_token_opens_the_pages_until_it_is_revoked(bench: Bench, tokens: Tokens) -> None:
    client = as_operator(bench, tokens)
    assert client.get("/ui/").status_code == 200
    tokens.revoke("ops")
    assert client.get("/ui/").status_code == 303


def test_a_sign_in_ends_after_twelve_hours_and_at_the_sign_out(bench: Bench, tokens: Tokens) -> None:
    client = as_operator(bench, tokens)
    bench.clock.advance(hours=11, minutes=59)
    assert client.get("/ui/").status_code == 200
    bench.clock.advance(minutes=1)
    assert client.get("/ui/").status_code == 303

    client = signed_in(bench, tokens.create("again", Role.OPERATOR))
    cookie = client.get_cookie("gateway_sign_in", path="/ui")
    assert send(client, "/sign-out").status_code == 303
    assert cookie is not None
    client.set_cookie("gateway_sign_in", cookie.value, path="/ui")
    assert client.get("/ui/").status_code == 303


def test_the_cookie_is_out_of_reach_of_scripts_and_of_other_sites(bench: Bench, tokens: Tokens) -> None:
    answer = send(bench.client, "/sign-in", token=tokens.create("ops", Role.OPERATOR))
    cookie = answer.headers["Set-Cookie"]
    assert all(part in cookie for part in ("HttpOnly", "SameSite=Strict", "Path=/ui")), cookie
    assert "Secure" not in cookie  # the API is plain HTTP here


def test_a_wrong_token_is_refused_recorded_and_bounded(bench: Bench, tokens: Tokens) -> None:
    tokens.create("ops", Role.OPERATOR)
    answers = [send(bench.client, "/sign-in", token=f"gsg_{number:043}") for number in range(22)]
    assert [each.status_code for each in answers] == [401] * 20 + [429] * 2
    assert "This token is not valid" in answers[0].text
    with bench.database.read() as rows:
        assert [event.what for event in rows.events(limit=1)] == ["denied"]


@pytest.mark.parametrize("headers", [{}, {"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}])
def test_a_form_of_another_page_changes_nothing(bench: Bench, headers: dict[str, str]) -> None:
    session_id = opened(bench)
    answer = bench.client.post(f"/ui/sessions/{session_id}/end", headers=headers)
    assert answer.status_code == 403
    assert bench.sessions.get(session_id).status == "active"


def test_every_page_forbids_scripts_and_styles_of_its_own_text(bench: Bench) -> None:
    session_id = opened(bench)
    for path in ("/", "/sessions", f"/sessions/{session_id}", "/events", "/usage", "/health"):
        answer = bench.client.get(f"/ui{path}")
        assert answer.status_code == 200, path
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["Cache-Control"] == "no-store"
        for forbidden in (" style=", "<style", "<script>", " onclick=", "hx-on"):
            assert forbidden not in answer.text, (path, forbidden)


def test_the_map_has_every_slice_with_its_session(bench: Bench) -> None:
    opened(bench)
    text = bench.client.get("/ui/").text
    assert text.count('class="slice ') == sum(
        gpu["memory_slices"]["total"] - sum(each["size"] - 1 for each in gpu["instances"])
        for gpu in bench.client.get("/gpus").json["gpus"]
    )
    assert "slice active at-1 span-4" in text or "slice active at-5 span-4" in text
    assert "ssh user123@ssh.gw" in text


def test_a_user_sees_no_other_name_and_no_act_of_an_operator(bench: Bench, tokens: Tokens) -> None:
    mine, other = opened(bench), opened(bench, "somebody-else")
    client = as_user(bench, tokens)
    for path in ("/", "/sessions", f"/sessions/{mine}", "/health", "/create"):
        text = client.get(f"/ui{path}").text
        for hidden in ("somebody-else", other, "Cordon", "Message"):
            assert hidden not in text, path
    assert client.get(f"/ui/sessions/{other}").status_code == 404
    assert client.get(f"/ui/sessions/{other}/end").status_code == 404
    assert send(client, f"/sessions/{other}/end").status_code == 404
    assert client.get("/ui/events").status_code == 403
    for path in (f"/sessions/{mine}/message", "/gpus/0/cordon", "/gpus/0/uncordon"):
        assert send(client, path, text="x").status_code == 403, path
    assert bench.sessions.get(other).status == "active"


def test_a_user_creates_extends_and_ends_a_session_with_forms(bench: Bench, tokens: Tokens) -> None:
    client = as_user(bench, tokens)
    answer = send(client, "/create", ttl="90m", mig_profile="1g.5gb", user_id="somebody-else")
    assert answer.status_code == 201
    assert "BEGIN OPENSSH PRIVATE KEY" in answer.text
    [session] = bench.sessions.list()
    assert (session.user_id, session.mig_profile, session.lease_seconds) == ("user123", "1g.5gb", 5400)

    ends = session.expires_at.isoformat()
    assert send(client, f"/sessions/{session.id}/extend", by="2h", ends=ends).status_code == 303
    assert bench.sessions.get(session.id).lease_seconds == 5400 + 7200
    again = send(client, f"/sessions/{session.id}/extend", by="2h", ends=ends)  # the form of an old page
    assert again.status_code == 409
    assert bench.sessions.get(session.id).lease_seconds == 5400 + 7200

    assert "running program is killed" in client.get(f"/ui/sessions/{session.id}/end").text
    assert send(client, f"/sessions/{session.id}/end").status_code == 303
    assert bench.sessions.list() == []


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"user_id": "", "ttl": "1h"}, "user_id"),
        ({"user_id": "a b", "ttl": "1h"}, "user_id"),
        ({"user_id": "user456", "ttl": "an hour"}, "is not a duration"),
        ({"user_id": "user456", "ttl": "99999d"}, "ttl_minutes"),
        ({"user_id": "user456", "ttl": "1h", "mig_profile": "9g.999gb"}, "9g.999gb"),
        ({"user_id": "user456", "ttl": "1h", "ssh_public_keys": "no key"}, "key"),
        ({"user_id": "user123", "ttl": "1h"}, "live session"),
    ],
)
def test_a_refused_form_says_why_and_keeps_what_was_typed(
    bench: Bench, fields: dict[str, str], reason: str
) -> None:
    opened(bench)
    answer = send(bench.client, "/create", **fields)
    assert answer.status_code in (409, 422), answer.text
    alert = answer.text.partition('role="alert"')[2].partition("</div>")[0]
    assert reason in alert.replace("&#39;", "'"), alert
    assert f'value="{fields["ttl"]}"' in answer.text
    assert len(bench.sessions.list()) == 1


def test_an_operator_messages_a_user_and_cordons_a_gpu(bench: Bench, tokens: Tokens) -> None:
    client, session_id = as_operator(bench, tokens), opened(bench)
    assert send(client, f"/sessions/{session_id}/message", text="reboot at six").status_code == 303
    assert bench.sessions.get(session_id).message == "reboot at six"
    assert send(client, "/gpus/0/cordon", reason="a new fan").status_code == 303
    assert "cordoned: a new fan" in client.get("/ui/").text
    assert send(client, "/gpus/0/uncordon").status_code == 303
    assert "a new fan" not in client.get("/ui/").text
    assert client.get("/ui/gpus/9/cordon").status_code == 404


def test_text_that_people_type_never_becomes_markup(bench: Bench, tokens: Tokens) -> None:
    client, session_id = as_operator(bench, tokens), opened(bench)
    evil = "<img src=x onerror=alert(1)>\"'{{7*7}}"
    send(client, f"/sessions/{session_id}/message", text=evil)
    send(client, "/gpus/0/cordon", reason=evil)
    pages: list[Answer] = [
        client.get("/ui/"),
        client.get("/ui/events"),
        client.get(f"/ui/sessions/{session_id}"),
        client.get(f"/ui/sessions/{evil}"),
        send(client, "/create", user_id=evil, ttl=evil, ssh_public_keys=evil),
        send(client, "/sign-in", token=evil),
    ]
    for page in pages:
        assert "<img" not in page.text
    assert "&lt;img src=x onerror=alert(1)&gt;" in client.get("/ui/events").text


def test_a_poll_gets_only_what_changes_and_nothing_if_nothing_changed(bench: Bench) -> None:
    opened(bench)
    first = bench.client.get("/ui/", headers={"HX-Request": "true"})
    assert "<html" not in first.text
    assert "user123" in first.text
    tag = {"HX-Request": "true", "HX-PTag": first.headers["HX-PTag"]}
    bench.clock.advance(seconds=5)
    assert bench.client.get("/ui/", headers=tag).status_code == 304
    bench.clock.advance(minutes=1)
    assert bench.client.get("/ui/", headers=tag).status_code == 200


def test_many_tabs_are_answered_from_one_rendering_that_is_younger_than_a_poll(
    bench: Bench, tokens: Tokens
) -> None:
    poll = {"HX-Request": "true"}
    clients = [as_operator(bench, tokens), as_user(bench, tokens, "user456")]
    before = [client.get("/ui/", headers=poll).text for client in clients]
    session_id = opened(bench)
    assert [client.get("/ui/", headers=poll).text for client in clients] == before
    assert "user123" in clients[0].get("/ui/").text  # a page that is loaded is always of this moment
    bench.clock.advance(seconds=4)
    assert "user123" in clients[0].get("/ui/", headers=poll).text
    assert session_id not in clients[1].get("/ui/", headers=poll).text


@pytest.mark.parametrize(
    ("path", "heading"),
    [
        ("/ui/usage?since=&until=&by=user", "<h1>Usage</h1>"),
        ("/ui/events?user_id=", "<h1>Events</h1>"),
        ("/ui/users?user_id=+", "<h1>Users and policies</h1>"),
    ],
)
def test_fields_that_were_left_empty_are_as_if_they_were_not_there(
    bench: Bench, path: str, heading: str
) -> None:
    answer = bench.client.get(path)
    assert (answer.status_code, heading in answer.text) == (200, True)


def test_the_first_page_shows_the_sessions_although_the_driver_does_not_answer(bench: Bench) -> None:
    opened(bench)
    bench.gpus.fail("list", DriverUnavailable("The driver hangs."))
    answer = bench.client.get("/ui/")
    assert answer.status_code == 200
    assert "The driver hangs." in answer.text
    assert "ssh user123@ssh.gw" in answer.text
    assert "This host has no GPUs" not in answer.text


def test_a_maintenance_that_is_announced_is_on_the_map(bench: Bench, tokens: Tokens) -> None:
    begins = bench.clock.now + timedelta(hours=5)
    bench.client.put("/gpus/0/cordon", json={"from": f"{begins:%Y-%m-%dT%H:%M:%SZ}"})
    for client in (as_operator(bench, tokens), as_user(bench, tokens)):
        answer = client.get("/ui/")
        assert answer.status_code == 200
        assert "cordoned from" in answer.text
        assert client.get("/ui/gpus/0/cordon").status_code in (200, 403)


def test_the_usage_page_draws_what_the_api_reports(bench: Bench, tokens: Tokens) -> None:
    session_id = opened(bench)
    opened(bench, "user456")
    bench.clock.advance(hours=2)
    bench.sessions.close(session_id)
    text = as_operator(bench, tokens).get("/ui/usage?by=user").text
    assert text.count("<rect") == 2
    assert "user123" in text
    own = as_user(bench, tokens).get("/ui/usage").text
    assert "user123" in own
    assert "user456" not in own


@pytest.mark.parametrize(
    "query", ["by=colour", "since=yesterday", "nonsense=1", "since=2025-02-01&until=2025-01-01"]
)
def test_a_query_that_the_api_refuses_is_a_page_that_says_why(bench: Bench, query: str) -> None:
    answer = bench.client.get(f"/ui/usage?{query}")
    assert answer.status_code == 422
    assert answer.mimetype == "text/html"
    assert 'role="alert"' in answer.text


def test_a_session_that_has_ended_is_a_page_that_says_so(bench: Bench) -> None:
    session_id = opened(bench)
    bench.sessions.close(session_id)
    answer = bench.client.get(f"/ui/sessions/{session_id}")
    assert answer.status_code == 410
    assert "has ended (deleted)" in answer.text


def test_the_first_page_with_all_it_loads_is_below_100_kb(bench: Bench) -> None:
    opened(bench)
    page = bench.client.get("/ui/").text
    files = {part.partition('"')[0] for part in page.split('"/ui/static/')[1:]}
    assert {"htmx.min.js", "style.css", "page.js"} <= files
    sizes: dict[str, Any] = {}
    for name in files:
        with bench.client.get(f"/ui/static/{name}") as file:
            sizes[name] = len(file.data)
    assert len(page.encode()) + sum(sizes.values()) < 100_000, sizes
    assert "://" not in page


def test_a_user_waits_with_the_form_and_an_operator_moves_the_line(bench: Bench, tokens: Tokens) -> None:
    for number in range(2):
        opened(bench, f"holder{number}")
    users = [as_user(bench, tokens, name) for name in ("user123", "user456")]
    for client in users:
        answer = send(client, "/create", ttl="1h", mig_profile="3g.20gb", wait="4h")
        assert answer.status_code == 201
        assert "BEGIN OPENSSH PRIVATE KEY" in answer.text
    own = users[1].get("/ui/waiting").text
    assert "user456" in own
    assert "user123" not in own
    operator = as_operator(bench, tokens)
    assert "user123" in operator.get("/ui/").text
    second = bench.gateway.queue.places()[1].request.id
    assert "user456 waits" in operator.get(f"/ui/sessions/{second}").text
    for typed in ("much", "--5", "1-", "9" * 5000):
        assert send(operator, f"/waiting/{second}/move", priority=typed).status_code == 422
    assert send(operator, f"/waiting/{second}/move", priority="5").status_code == 303
    for what in ("extend", "message"):
        assert "still waits in line" in operator.get(f"/ui/sessions/{second}/{what}").text
    assert bench.gateway.queue.places()[0].request.id == second
    assert send(users[1], f"/waiting/{second}/move", priority="9").status_code == 403
    assert "Give up the place of user456" in users[1].get(f"/ui/sessions/{second}/end").text
    assert send(users[1], f"/sessions/{second}/end").status_code == 303
    assert len(bench.gateway.queue.places()) == 1


def test_a_whole_gpu_is_drawn_as_one_piece(bench_of: BenchMaker) -> None:
    bench = bench_of(FakeGpus(["T4"], whole_gpus=True))
    bench.sessions.open("user123", LIFETIME, "full", None)
    assert "slice active at-1 span-1" in bench.client.get("/ui/").text


def test_two_gateways_in_one_process_share_no_rendering(bench_of: BenchMaker, tmp_path: Path) -> None:
    poll = {"HX-Request": "true"}
    first = bench_of(FakeGpus())
    opened(first)
    assert "user123" in first.client.get("/ui/", headers=poll).text
    second = bench_of(FakeGpus(), db=DatabaseUrl(tmp_path / "other.db"), state_dir=tmp_path / "other")
    assert "user123" not in second.client.get("/ui/", headers=poll).text
