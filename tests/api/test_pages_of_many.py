"""The web pages with 200 sessions, and the forms that go beyond a policy."""

from gateway.domain.permissions import Role
from gateway.services.sign_ins import LIFETIME
from gateway.services.tokens import Tokens
from tests.api.test_pages import as_operator, as_user, send
from tests.conftest import Bench, BenchMaker
from tests.fakes.gpus import FakeGpus


def test_with_200_sessions_the_map_is_whole_and_the_tables_have_pages(bench_of: BenchMaker) -> None:
    bench = bench_of(FakeGpus(["A100-40GB"] * 29))
    for number in range(200):
        bench.sessions.open(f"user{number:03}", LIFETIME, "1g.5gb", None)
    now = bench.client.get("/ui/")
    assert len(now.data) < 100_000
    assert now.text.count('class="slice active') == 200
    assert now.text.count(">End<span") == 20
    assert "All 200 sessions" in now.text
    shown = [bench.client.get(f"/ui/sessions?page={page}") for page in (1, 2, 3, 4)]
    for page in shown:
        assert len(page.data) < 100_000
    assert all(any(f">user{number:03}</a>" in page.text for page in shown) for number in range(200))
    for odd in ("0", "-1", "99", "one"):
        assert bench.client.get(f"/ui/sessions?page={odd}").status_code == 200


def test_an_operator_goes_beyond_a_policy_after_a_second_question(bench: Bench, tokens: Tokens) -> None:
    bench.client.put("/policies/default", json={"max_ttl_minutes": 60})
    client = as_operator(bench, tokens)
    fields = {"user_id": "user123", "ttl": "3h", "mig_profile": "1g.5gb"}
    assert send(client, "/create", **fields).status_code == 403
    asked = send(client, "/create", **fields, override="on")
    assert asked.status_code == 200
    assert "Go beyond the policy of user123?" in asked.text
    assert bench.sessions.list() == []
    for name, value in fields.items():
        assert f'name="{name}" value="{value}"' in asked.text
    done = send(client, "/create", **fields, override="on", confirmed="yes")
    assert done.status_code == 201
    assert [session.lease_seconds for session in bench.sessions.list()] == [3 * 3600]


def test_a_form_that_was_left_empty_has_the_lease_and_the_profile_of_the_policy(
    bench: Bench, tokens: Tokens
) -> None:
    bench.client.put("/policies/default", json={"default_ttl_minutes": 30, "profiles": ["2g.10gb"]})
    assert send(as_user(bench, tokens), "/create", ttl="", mig_profile="").status_code == 201
    [session] = bench.sessions.list()
    assert (session.lease_seconds, session.mig_profile) == (30 * 60, "2g.10gb")


def test_a_user_has_no_way_beyond_the_policy(bench: Bench, tokens: Tokens) -> None:
    bench.client.put("/policies/default", json={"max_ttl_minutes": 60})
    client = as_user(bench, tokens)
    assert "override" not in client.get("/ui/create").text
    answer = send(client, "/create", ttl="3h", override="on", confirmed="yes")
    assert answer.status_code == 403
    assert bench.sessions.list() == []


def test_a_form_has_a_field_for_each_rule_of_a_policy(bench: Bench, tokens: Tokens) -> None:
    rules = bench.client.put("/policies/students", json={}).json.keys() - {"name"}
    token = tokens.create("root", Role.ADMIN)
    client = bench.client
    send(client, "/sign-in", token=token)
    form = client.get("/ui/policies/set?name=students").text
    for rule in rules:
        label = form.partition(f'<label for="{rule}">')[2].partition("<")[0]
        assert label, rule


def test_only_the_owner_and_operators_see_that_a_session_is_idle(bench: Bench, tokens: Tokens) -> None:
    bench.sessions.open("user123", LIFETIME, "1g.5gb", None)
    with bench.database.begin() as rows:
        for session in rows.list():
            session.idle_since = bench.clock.now
    bench.clock.advance(minutes=52)
    pages = [as_user(bench, tokens, "somebody"), as_user(bench, tokens), as_operator(bench, tokens)]
    assert ["idle 0:52" in page.get("/ui/").text for page in pages] == [False, True, True]
