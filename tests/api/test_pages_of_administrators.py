"""The pages about users, policies, webhooks and images: who may see and do what on them."""

from collections.abc import Mapping
from typing import Any

import pytest

from gateway.domain import permissions
from gateway.domain.permissions import Role
from gateway.domain.policies import Rules
from gateway.domain.ssh_keys import fingerprint, make_pair
from gateway.services.tokens import Tokens
from tests.api.test_pages import as_operator, as_user, opened, send, signed_in
from tests.client import ApiClient
from tests.conftest import Bench

FORMS = {
    "ui.change_user": "/users/user123/change",
    "ui.change_keys": "/users/user123/keys",
    "ui.set_policy": "/policies/set?name=students",
    "ui.remove_policy": "/policies/students/remove",
    "ui.set_webhook": "/webhooks/set",
    "ui.remove_webhook": "/webhooks/chat/remove",
}
VIEWS = {
    "ui.users": "/users",
    "ui.user": "/users/user123",
    "ui.images": "/images",
    "ui.webhooks": "/webhooks",
    "ui.webhook": "/webhooks/chat",
}
HOOK = {"name": "chat", "url": "https://chat.example/hook", "events": "session.*", "format": "standard"}


@pytest.fixture
def prepared(bench: Bench) -> Bench:
    """With a session, a policy and a webhook."""
    opened(bench)
    bench.client.put("/policies/students", json={"gpu_hours_per_week": 20, "profiles": ["1g.5gb", "2g.10gb"]})
    bench.client.put("/webhooks/chat", json={"url": HOOK["url"], "events": ["*"]})
    return bench


def as_admin(bench: Bench, tokens: Tokens) -> ApiClient:
    return signed_in(bench, tokens.create("root", Role.ADMIN))


def policies(bench: Bench) -> Mapping[str, Rules]:
    with bench.database.read() as rows:
        return rows.policies()


@pytest.mark.parametrize("role", [Role.ADMIN, Role.OPERATOR, Role.USER])
def test_each_role_has_exactly_the_pages_and_forms_of_the_api(
    prepared: Bench, tokens: Tokens, role: Role
) -> None:
    client = signed_in(prepared, tokens.create("me", role, "user123" if role is Role.USER else None))
    for endpoint, path in {**VIEWS, **FORMS}.items():
        allowed = permissions.scope(role, endpoint) is not None
        assert client.get(f"/ui{path}").status_code == (200 if allowed else 403), path
        if endpoint in FORMS and not allowed:
            assert send(client, path, **HOOK).status_code == 403, path


@pytest.mark.parametrize("role", [Role.ADMIN, Role.OPERATOR, Role.USER])
def test_a_page_links_only_to_what_its_reader_may_open(prepared: Bench, tokens: Tokens, role: Role) -> None:
    client = signed_in(prepared, tokens.create("me", role, "user123" if role is Role.USER else None))
    seen, found = set[str](), ["/ui/"]
    while found:
        path = found.pop()
        if path in seen or path.startswith("/ui/static/"):
            continue
        seen.add(path)
        answer = client.get(path)
        assert answer.status_code == 200, path
        links = (part.partition('"')[0] for part in answer.text.split('href="')[1:])
        found += [link.replace("&amp;", "&") for link in links if link.startswith("/ui/")]
    assert "/ui/users/user123" in seen


def test_a_user_sees_the_own_page_and_nobody_elses(prepared: Bench, tokens: Tokens) -> None:
    opened(prepared, "somebody-else")
    client = as_user(prepared, tokens)
    assert "somebody-else" not in client.get("/ui/users/user123").text
    for path in ("/users/somebody-else", "/users/somebody-else/keys", "/users/somebody-else/change"):
        assert client.get(f"/ui{path}").status_code == 403, path
    key = make_pair().public
    assert send(client, "/users/somebody-else/keys", ssh_public_keys=key).status_code == 403
    with prepared.database.read() as rows:
        assert rows.public_keys("somebody-else") == []


def test_the_users_are_listed_with_their_groups_keys_and_used_quotas(prepared: Bench, tokens: Tokens) -> None:
    client, key = as_operator(prepared, tokens), make_pair().public
    assert send(client, "/users/user123/change", group="students", email="a@lab.example").status_code == 303
    assert send(client, "/users/user123/keys", ssh_public_keys=f"{key} me@laptop\n\n").status_code == 303
    prepared.clock.advance(hours=2)
    page = client.get("/ui/users").text
    own = client.get("/ui/users/user123").text
    for text in ("students", fingerprint(key)):
        assert text in page
        assert text in own
    assert "of 20" in page
    assert "a@lab.example" in own
    assert "1g.5gb, 2g.10gb" in page
    assert "Make a policy" not in page  # operators may not


def test_the_fingerprint_is_that_of_ssh_keygen() -> None:
    line = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
    assert fingerprint(line) == "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU"


def test_users_come_in_pages_of_a_hundred(bench: Bench, tokens: Tokens) -> None:
    for number in range(101):
        bench.client.put(f"/users/user{number:03}", json={"group": "students"})
    client = as_operator(bench, tokens)
    first = client.get("/ui/users").text
    assert "user099" in first
    assert "user100" not in first
    assert len(first.encode()) < 100_000
    rest = first.partition("/ui/users?after=")[2].partition('"')[0]
    assert rest == "user099"
    last = client.get(f"/ui/users?after={rest}").text
    assert "user100" in last
    assert "after=" not in last


def test_the_page_of_any_user_is_found_by_name(bench: Bench, tokens: Tokens) -> None:
    client = as_operator(bench, tokens)
    answer = client.get("/ui/users?user_id=newcomer")
    assert (answer.status_code, answer.location) == (303, "/ui/users/newcomer")
    assert "No key is stored" in client.get("/ui/users/newcomer").text
    assert client.get("/ui/users/root").status_code == 422


def test_a_wrong_key_is_refused_and_kept_in_the_form(bench: Bench, tokens: Tokens) -> None:
    answer = send(as_user(bench, tokens), "/users/user123/keys", ssh_public_keys="no key")
    assert answer.status_code == 422
    assert 'role="alert"' in answer.text
    assert ">no key</textarea>" in answer.text


@pytest.mark.parametrize(
    ("typed", "rules"),
    [
        (
            {"max_ttl_minutes": "240", "gpu_hours_per_week": "12.5"},
            {"max_ttl_minutes": 240, "gpu_hours_per_week": 12.5},
        ),
        ({"profiles": "1g.5gb, 2g.10gb"}, {"profiles": ["1g.5gb", "2g.10gb"]}),
        ({"images": "none", "may_start": "false"}, {"images": [], "may_start": False}),
        ({}, {}),
    ],
)
def test_an_administrator_sets_and_removes_a_policy(
    bench: Bench, tokens: Tokens, typed: dict[str, str], rules: dict[str, Any]
) -> None:
    client = as_admin(bench, tokens)
    assert send(client, "/policies/set", name="students", **typed).status_code == 303
    assert policies(bench)["students"] == rules
    form = client.get("/ui/policies/set?name=students").text
    for text in typed.values():
        assert f'value="{text}"' in form
    page = client.get("/ui/policies/students/remove").text
    assert "Its rules are lost" in page
    assert send(client, "/policies/students/remove").status_code == 303
    assert client.get("/ui/policies/students/remove").status_code == 404


@pytest.mark.parametrize("gpu_hours", [0.5, 20, 123456.75, 1000000])
def test_a_policy_that_is_shown_and_sent_again_stays_as_it_is(
    bench: Bench, tokens: Tokens, gpu_hours: float
) -> None:
    rules = {
        "profiles": [],
        "images": ["pytorch"],
        "gpu_hours_per_week": gpu_hours,
        "may_start": True,
        "idle_minutes": 0,
    }
    bench.client.put("/policies/students", json=rules)
    client = as_admin(bench, tokens)
    form = client.get("/ui/policies/set?name=students").text
    shown = {
        name: form.partition(f'name="{name}" value="')[2].partition('"')[0]
        for name in ("profiles", "images", "gpu_hours_per_week", "idle_minutes")
    }
    assert 'value="true" selected' in form
    assert send(client, "/policies/set", name="students", may_start="true", **shown).status_code == 303
    assert policies(bench)["students"] == rules


@pytest.mark.parametrize(
    "typed",
    [{"max_ttl_minutes": "two"}, {"gpu_hours_per_week": "1e3"}, {"may_start": "perhaps"}, {"name": "a b"}],
)
def test_a_refused_policy_says_why_and_keeps_what_was_typed(
    bench: Bench, tokens: Tokens, typed: dict[str, str]
) -> None:
    client = as_admin(bench, tokens)
    answer = send(client, "/policies/set", **{"name": "students", "max_keep_hours": "7", **typed})
    assert answer.status_code == 422, answer.text
    assert 'role="alert"' in answer.text
    assert 'name="max_keep_hours" value="7"' in answer.text
    assert policies(bench) == {}


def test_an_administrator_makes_tests_and_removes_a_webhook(bench: Bench, tokens: Tokens) -> None:
    client = as_admin(bench, tokens)
    made = send(client, "/webhooks/set", **HOOK)
    assert made.status_code == 201
    secret = "whsec_" + made.text.partition("whsec_")[2].partition("<")[0]
    assert len(secret) > 40
    assert send(client, "/webhooks/set", **{**HOOK, "events": "gpu.*, session.ended"}).status_code == 303
    assert send(client, "/webhooks/chat/test").status_code == 303
    page = client.get("/ui/webhooks/chat").text
    assert "webhook.tested" in page
    assert "gpu.*, session.ended" in page
    assert secret not in page
    [delivery] = bench.client.get(
        "/webhooks/chat/deliveries", headers={"Authorization": f"Bearer {tokens.create('r2', Role.ADMIN)}"}
    ).json["deliveries"]
    assert send(client, f"/webhooks/chat/deliveries/{delivery['id']}/retry").status_code == 303
    assert "lost" in client.get("/ui/webhooks/chat/remove").text
    assert send(client, "/webhooks/chat/remove").status_code == 303
    assert client.get("/ui/webhooks/chat").status_code == 404
    assert "There is no webhook" in client.get("/ui/webhooks").text


def test_a_refused_webhook_says_why(bench: Bench, tokens: Tokens) -> None:
    answer = send(as_admin(bench, tokens), "/webhooks/set", **{**HOOK, "events": "Session"})
    assert answer.status_code == 422
    assert 'role="alert"' in answer.text
    assert 'value="https://chat.example/hook"' in answer.text


def test_the_images_are_listed_for_everyone(bench: Bench, tokens: Tokens) -> None:
    listed = bench.client.get("/images").json["images"]
    text = as_user(bench, tokens).get("/ui/images").text
    for image in listed:
        assert image["image"] in text


def test_text_that_people_type_never_becomes_markup(bench: Bench, tokens: Tokens) -> None:
    client, evil = as_admin(bench, tokens), "<img src=x onerror=alert(1)>\"'{{7*7}}"
    bench.client.put("/users/user123", json={})
    fields = dict.fromkeys(("name", "group", "email", "url", "events", "format", "ssh_public_keys"), evil)
    rules = dict.fromkeys(("profiles", "images"), evil)
    assert send(client, "/policies/set", name="students", **rules).status_code in (303, 422)
    pages = [
        send(client, "/users/user123/change", **fields),
        send(client, "/users/user123/keys", **fields),
        send(client, "/policies/set", **fields, **rules),
        send(client, "/webhooks/set", **fields),
        *(client.get(f"/ui{path}") for path in ("/users", "/webhooks", "/policies/set?name=students")),
        client.get("/ui/policies/set", query_string={"name": evil}),
        client.get(f"/ui/users/{evil}"),
    ]
    for page in pages:
        assert "<img" not in page.text
        assert 'onerror=alert(1)>"' not in page.text
