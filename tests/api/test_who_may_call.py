from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from gateway.domain import permissions
from gateway.domain.permissions import Role
from gateway.errors import DockerUnavailable
from gateway.services.tokens import Tokens
from tests.client import Answer, ApiClient
from tests.conftest import Bench

CALLS: dict[str, tuple[str, str, Any]] = {
    "sessions.create": ("POST", "/sessions", {"user_id": "user123"}),
    "sessions.list_live": ("GET", "/sessions", None),
    "sessions.read": ("GET", "/sessions/abc", None),
    "sessions.delete": ("DELETE", "/sessions/abc", None),
    "sessions.replace_keys": ("PUT", "/sessions/abc/keys", {"ssh_public_keys": []}),
    "sessions.extend": ("POST", "/sessions/abc/extend", {"minutes": 1}),
    "sessions.activity": ("GET", "/sessions/abc/activity", None),
    "sessions.keep": ("POST", "/sessions/abc/keep", {"minutes": 60}),
    "sessions.send_message": ("POST", "/sessions/abc/message", {"text": "hello"}),
    "users.list_all": ("GET", "/users", None),
    "users.read": ("GET", "/users/user123/keys", None),
    "users.replace": ("PUT", "/users/user123/keys", {"ssh_public_keys": []}),
    "users.show": ("GET", "/users/user123", None),
    "users.change": ("PUT", "/users/user123", {"group": "vision"}),
    "usage.report": ("GET", "/usage", None),
    "gpus.list_gpus": ("GET", "/gpus", None),
    "gpus.list_profiles": ("GET", "/gpus/profiles", None),
    "gpus.fit": ("GET", "/gpus/fit?profile=1g.5gb", None),
    "gpus.cordon": ("PUT", "/gpus/0/cordon", {}),
    "gpus.uncordon": ("DELETE", "/gpus/0/cordon", None),
    "events.list_events": ("GET", "/events", None),
    "events.of_session": ("GET", "/sessions/abc/events", None),
    "images.list_all": ("GET", "/images", None),
    "policies.list_all": ("GET", "/policies", None),
    "policies.read": ("GET", "/policies/students", None),
    "policies.of_user": ("GET", "/users/user123/policy", None),
    "policies.change": ("PUT", "/policies/students", {"max_ttl_minutes": 60}),
    "policies.remove": ("DELETE", "/policies/students", None),
    "queue.show": ("GET", "/queue", None),
    "queue.move": ("PUT", "/queue/abc", {"priority": 5}),
    "webhooks.list_all": ("GET", "/webhooks", None),
    "webhooks.change": ("PUT", "/webhooks/chat", {"url": "https://chat.example/hook", "events": ["*"]}),
    "webhooks.remove": ("DELETE", "/webhooks/chat", None),
    "webhooks.test": ("POST", "/webhooks/chat/test", None),
    "webhooks.deliveries": ("GET", "/webhooks/chat/deliveries", None),
    "webhooks.retry": ("POST", "/webhooks/chat/deliveries/1/retry", None),
    "openapi.document": ("GET", "/openapi.json", None),
    "health.healthz": ("GET", "/healthz", None),
    "health.readyz": ("GET", "/readyz", None),
    "metrics.scrape": ("GET", "/metrics", None),
}

ALONE = ("health", "start", "unknown", "sign_in", "sign_out", "language", "static")  # pages with no endpoint
PAGES = {*permissions.PAGES, *(f"ui.{page}" for page in ALONE)}


@pytest.fixture
def caller(bench: Bench, tokens: Tokens) -> Callable[..., ApiClient]:
    """`caller(Role.USER, "user123")`: a client that sends a token of this role."""

    def make(role: Role, user_id: str | None = None, secret: str | None = None) -> ApiClient:
        client = bench.client
        secret = secret or tokens.create(f"{role}-{user_id}", role, user_id)
        client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {secret}"
        return client

    return make


def call(client: ApiClient, endpoint: str) -> Answer:
    method, path, body = CALLS[endpoint]
    return client.open(path, method=method, json=body)


def assert_refused(response: Answer, status: int) -> None:
    assert response.status_code == status, response.text
    assert response.content_type == "application/problem+json"


def test_every_endpoint_has_exactly_one_rule(bench: Bench) -> None:
    endpoints = {rule.endpoint for rule in bench.app.url_map.iter_rules()}
    assert endpoints == set(permissions.RULES) == set(CALLS) | PAGES


def test_a_page_has_the_rule_of_its_endpoint(bench: Bench) -> None:
    """Each page is tried in `test_pages.py`. Programs in sessions use the API alone."""
    for page, api in permissions.PAGES.items():
        others = {role: scope for role, scope in permissions.RULES[api].items() if role is not Role.SESSION}
        assert permissions.RULES[page] == others, page


def test_an_endpoint_without_a_rule_is_denied_to_every_role() -> None:
    assert [permissions.scope(role, "sessions.new") for role in Role] == [None] * len(Role)


@pytest.mark.parametrize("role", [Role.ADMIN, Role.OPERATOR, Role.USER, Role.MONITOR])
@pytest.mark.parametrize("endpoint", CALLS)
def test_each_role_has_exactly_the_access_of_its_rule(
    caller: Callable[..., ApiClient], endpoint: str, role: Role
) -> None:
    response = call(caller(role, "user123" if role is Role.USER else None), endpoint)
    if permissions.scope(role, endpoint) is None:
        assert_refused(response, 403)
    else:
        assert response.status_code not in {401, 403}


@pytest.mark.parametrize("endpoint", CALLS)
def test_once_a_token_exists_only_health_and_description_need_none(
    bench: Bench, tokens: Tokens, endpoint: str
) -> None:
    tokens.create("admin", Role.ADMIN)
    response = call(bench.client, endpoint)
    if endpoint.startswith(("health.", "openapi.")):
        assert response.status_code in {200, 503}
    else:
        assert_refused(response, 401)
        assert response.headers["WWW-Authenticate"] == "Bearer"


def test_revoking_the_last_token_does_not_allow_anonymous_requests(bench: Bench, tokens: Tokens) -> None:
    assert bench.client.get("/sessions").status_code == 200
    tokens.create("admin", Role.ADMIN)
    tokens.revoke("admin")
    assert_refused(bench.client.get("/sessions"), 401)


def test_before_the_first_token_only_local_clients_may_call(bench: Bench) -> None:
    away = {"REMOTE_ADDR": "192.0.2.7", "HTTP_X_FORWARDED_FOR": "127.0.0.1"}
    assert_refused(bench.client.get("/sessions", environ_base=away), 401)
    assert bench.client.get("/sessions", environ_base={"REMOTE_ADDR": ""}).status_code == 200


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer x", "Bearer gsg_" + "A" * 43, "Basic YTpi", "\x00"])
def test_a_wrong_token_is_refused_even_before_the_first_token(bench: Bench, header: str) -> None:
    response = bench.client.get("/sessions", headers={"Authorization": header})
    assert_refused(response, 401)
    assert response.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'


def test_an_expired_or_revoked_token_is_refused(
    bench: Bench, tokens: Tokens, caller: Callable[..., ApiClient]
) -> None:
    expiry = bench.clock.now + timedelta(days=1)
    short = caller(Role.ADMIN, secret=tokens.create("short", Role.ADMIN, expires_at=expiry))
    revoked = caller(Role.ADMIN, secret=tokens.create("revoked", Role.ADMIN))
    assert [short.get("/gpus").status_code, revoked.get("/gpus").status_code] == [200, 200]
    tokens.revoke("revoked")
    assert [short.get("/gpus").status_code, revoked.get("/gpus").status_code] == [200, 401]
    bench.clock.advance(days=1)
    assert short.get("/gpus").status_code == 401


def test_the_last_use_of_a_token_is_written_at_most_once_a_minute(
    bench: Bench, tokens: Tokens, caller: Callable[..., ApiClient]
) -> None:
    admin, first = caller(Role.ADMIN), bench.clock.now
    admin.get("/sessions")
    bench.clock.advance(seconds=59)
    admin.get("/sessions")
    assert tokens.list()[0].used_at == first
    bench.clock.advance(seconds=1)
    admin.get("/sessions")
    assert tokens.list()[0].used_at == bench.clock.now


def test_a_user_sees_and_changes_only_own_objects(bench: Bench, caller: Callable[..., ApiClient]) -> None:
    admin, user = caller(Role.ADMIN), caller(Role.USER, "user123")
    other = admin.post("/sessions", json={"user_id": "user456"}).json["session_id"]
    own = user.post("/sessions", json={"user_id": "user123"}).json["session_id"]
    assert_refused(user.post("/sessions", json={"user_id": "user456"}), 403)
    assert_refused(user.get("/users/user456/keys"), 403)
    assert_refused(user.put("/users/user456/keys", json={"ssh_public_keys": []}), 403)
    assert [session["session_id"] for session in user.get("/sessions").json["sessions"]] == [own]
    assert len(admin.get("/sessions").json["sessions"]) == 2
    for path in ("/gpus", "/gpus/fit?profile=7g.40gb"):
        assert other in admin.get(path).text
        assert own in user.get(path).text
        assert not {other, "user456"} & set(user.get(path).text.split('"'))
    assert user.delete(f"/sessions/{own}").status_code == 204


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_another_users_session_looks_like_one_that_never_existed(
    bench: Bench, caller: Callable[..., ApiClient], method: str
) -> None:
    admin, user = caller(Role.ADMIN), caller(Role.USER, "user123")
    other = admin.post("/sessions", json={"user_id": "user456"}).json["session_id"]
    never = user.open("/sessions/never", method=method)
    for _ in ("live", "ended"):
        response = user.open(f"/sessions/{other}", method=method)
        assert (response.status_code, response.text) == (404, never.text.replace("never", other))
        admin.delete(f"/sessions/{other}")


def test_only_operators_see_the_details_of_readiness(bench: Bench, caller: Callable[..., ApiClient]) -> None:
    full = caller(Role.OPERATOR).get("/readyz").json["parts"]
    assert full["gpus"] == "ok: 1 GPUs, simulated"
    for client in (bench.client, caller(Role.USER, "user123")):
        brief = client.get("/readyz").json["parts"]
        assert set(brief) == set(full)
        assert set(brief.values()) <= {"ok", "not ready"}


def test_health_probes_without_a_token_share_one_round_of_checks_a_second(
    bench: Bench, caller: Callable[..., ApiClient]
) -> None:
    admin = caller(Role.ADMIN)
    assert bench.client.get("/readyz").json["parts"]["docker"] == "ok"
    bench.containers.fail("check", DockerUnavailable("Docker is out of reach."))
    assert bench.client.get("/readyz").json["parts"]["docker"] == "ok"
    assert admin.get("/readyz").json["parts"]["docker"] != "ok"
    assert bench.client.get("/readyz").json["parts"]["docker"] == "not ready"
    bench.containers.fail("check", None)
    bench.clock.advance(seconds=1)
    assert bench.client.get("/readyz").json["parts"]["docker"] == "ok"


def test_health_probes_without_a_token_are_limited_for_each_address(
    bench: Bench, caller: Callable[..., ApiClient]
) -> None:
    admin = caller(Role.ADMIN)
    statuses = {bench.client.get("/readyz").status_code for _ in range(120)}
    assert 429 not in statuses
    refused = bench.client.get("/readyz")
    assert_refused(refused, 429)
    assert refused.headers["Retry-After"] == "60"
    assert bench.client.get("/readyz", environ_base={"REMOTE_ADDR": "192.0.2.9"}).status_code != 429
    assert admin.get("/readyz").status_code != 429


def test_failed_authentications_are_limited_and_valid_tokens_are_not(
    bench: Bench, caller: Callable[..., ApiClient]
) -> None:
    admin = caller(Role.ADMIN)
    statuses = [bench.client.get("/sessions").status_code for _ in range(21)]
    assert statuses == [401] * 20 + [429]
    refused = bench.client.get("/sessions")
    assert_refused(refused, 429)
    assert refused.headers["Retry-After"] == "60"
    assert admin.get("/sessions").status_code == 200
    assert bench.client.get("/sessions", environ_base={"REMOTE_ADDR": "192.0.2.9"}).status_code == 401
    bench.clock.advance(minutes=1)
    assert bench.client.get("/sessions").status_code == 401
