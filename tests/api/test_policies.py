"""Policies as administrators set them and users meet them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gateway.cli import gateway as command
from gateway.domain.permissions import Role
from gateway.services.tokens import Tokens
from tests.client import Answer, ApiClient
from tests.conftest import Bench, BenchMaker
from tests.fakes.gpus import FakeGpus


@pytest.fixture
def bench(bench_of: BenchMaker) -> Bench:
    return bench_of(FakeGpus(["A100-40GB"] * 2))


def set_policy(bench: Bench, name: str, **rules: Any) -> None:
    response = bench.client.put(f"/policies/{name}", json=rules)
    assert response.status_code == 200, response.text


def create(bench: Bench, **body: Any) -> Answer:
    return bench.client.post("/sessions", json={"user_id": "user123", **body})


def opened(bench: Bench, **body: Any) -> dict[str, Any]:
    response = create(bench, **body)
    assert response.status_code == 201, response.text
    found: dict[str, Any] = response.json
    return found


def refused(response: Answer) -> dict[str, Any]:
    assert response.status_code == 403, response.text
    assert response.json["type"] == "/problems/policy"
    found: dict[str, Any] = response.json
    return found


def minutes(session: dict[str, Any]) -> int:
    lease = datetime.fromisoformat(session["expires_at"]) - datetime.fromisoformat(session["created_at"])
    return lease // timedelta(minutes=1)


def test_a_profile_that_is_not_allowed_is_refused_with_the_rule(bench: Bench) -> None:
    set_policy(bench, "default", profiles=["2g.10gb", "1g.5gb"])
    problem = refused(create(bench, mig_profile="7g.40gb"))
    assert (problem["rule"], problem["limit"], problem["used"], problem["retry_at"]) == (
        "profiles",
        ["2g.10gb", "1g.5gb"],
        "7g.40gb",
        None,
    )
    assert opened(bench)["mig_profile"] == "2g.10gb"


def test_a_refusal_leaves_nothing_behind(bench: Bench) -> None:
    set_policy(bench, "default", gpu_hours_per_week=0.1)
    refused(create(bench, mig_profile="7g.40gb"))
    assert bench.leftovers() == {name: [] for name in bench.leftovers()}


def test_the_length_of_a_lease_follows_the_policy(bench: Bench) -> None:
    set_policy(bench, "default", default_ttl_minutes=30, max_ttl_minutes=90)
    assert refused(create(bench, ttl_minutes=91))["limit"] == 90
    assert minutes(opened(bench)) == 30


def test_a_user_who_may_not_start_is_started_by_an_operator_who_overrides(bench: Bench) -> None:
    set_policy(bench, "default", may_start=False, max_ttl_minutes=10)
    assert refused(create(bench))["rule"] == "may_start"
    assert minutes(opened(bench, override=True, ttl_minutes=600)) == 600
    events = bench.client.get("/events").json["events"]
    assert "beyond the policy" in next(event for event in events if event["what"] == "created")["detail"]


def client_of(bench: Bench, role: Role, user_id: str | None = None) -> ApiClient:
    client = bench.client
    secret = Tokens(bench.database, bench.clock).create(f"{role}", role, user_id)
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {secret}"
    return client


def test_a_user_cannot_override(bench: Bench) -> None:
    set_policy(bench, "default", may_start=False)
    user = client_of(bench, Role.USER, "user123")
    response = user.post("/sessions", json={"user_id": "user123", "override": True})
    assert response.json["type"] == "/problems/forbidden"
    assert user.get("/users/user123/policy").json["rules"] == {
        "may_start": {"value": False, "from": "default"}
    }
    assert user.get("/users/user456/policy").status_code == 403
    assert user.get("/policies").status_code == 403


def test_operators_read_policies_and_administrators_change_them(bench: Bench) -> None:
    operator = client_of(bench, Role.OPERATOR)
    assert operator.get("/policies").status_code == 200
    assert operator.put("/policies/default", json={}).status_code == 403


def test_a_quota_counts_past_sessions_and_says_when_more_is_possible(bench: Bench) -> None:
    set_policy(bench, "default", gpu_hours_per_week=10)
    began = bench.clock.now
    id = opened(bench, mig_profile="7g.40gb", ttl_minutes=600)["session_id"]
    bench.clock.advance(hours=8)
    bench.client.delete(f"/sessions/{id}")
    problem = refused(create(bench, mig_profile="7g.40gb", ttl_minutes=300))
    assert (problem["rule"], problem["limit"], problem["used"]) == ("gpu_hours_per_week", 10, 8)
    retry_at = datetime.fromisoformat(problem["retry_at"])
    assert retry_at == began.replace(microsecond=0) + timedelta(days=7, hours=3)
    assert "possible from" in problem["detail"]
    bench.clock.advance(seconds=(retry_at - bench.clock.now).total_seconds() + 1)
    opened(bench, mig_profile="7g.40gb", ttl_minutes=300)


def test_a_quota_ends_nothing_that_runs_and_stops_its_extension(bench: Bench) -> None:
    session = opened(bench, mig_profile="7g.40gb", ttl_minutes=300)
    set_policy(bench, "default", gpu_hours_per_week=1)
    bench.reconciler.reconcile()
    bench.gateway.reaper.reap()
    path = f"/sessions/{session['session_id']}"
    assert bench.client.get(path).json["expires_at"] == session["expires_at"]
    assert refused(bench.client.post(f"{path}/extend", json={"minutes": 60}))["rule"] == "gpu_hours_per_week"
    assert bench.client.post(f"{path}/extend", json={"minutes": 60, "override": True}).status_code == 200


def test_as_far_as_possible_is_as_far_as_the_hours_of_the_week_allow(bench: Bench) -> None:
    set_policy(bench, "default", gpu_hours_per_week=2)
    session = opened(bench, mig_profile="3g.20gb", ttl_minutes=60)
    path = f"/sessions/{session['session_id']}/extend"
    extended = bench.client.post(path, json={"minutes": "max"})
    assert (extended.status_code, minutes(extended.json)) == (200, 280)  # two hours times 7/3
    assert refused(bench.client.post(path, json={"minutes": "max"}))["rule"] == "gpu_hours_per_week"
    assert refused(bench.client.post(path, json={"minutes": 1}))["rule"] == "gpu_hours_per_week"


def test_the_longest_lease_is_that_of_the_policy_also_of_a_live_session(bench: Bench) -> None:
    set_policy(bench, "vision", max_lease_minutes=90)
    session = opened(bench, ttl_minutes=60)
    path = f"/sessions/{session['session_id']}"
    assert bench.client.post(f"{path}/extend", json={"minutes": 5}).status_code == 200
    bench.client.put("/users/user123", json={"group": "vision"})
    assert minutes({**session, "expires_at": bench.client.get(path).json["max_expires_at"]}) == 90
    assert refused(bench.client.post(f"{path}/extend", json={"minutes": 26}))["rule"] == "max_lease_minutes"
    bench.client.put("/users/user123", json={})
    assert minutes({**session, "expires_at": bench.client.get(path).json["max_expires_at"]}) == 10080


def test_the_longest_lease_of_the_policy_holds_for_a_new_one_too(bench: Bench) -> None:
    set_policy(bench, "default", max_lease_minutes=45)
    answer = refused(create(bench, ttl_minutes=46))
    assert (answer["rule"], answer["limit"], answer["used"]) == ("max_lease_minutes", 45, 46)
    waiting = refused(create(bench, ttl_minutes=46, wait_minutes=60))
    assert waiting["rule"] == "max_lease_minutes"
    session = opened(bench)
    assert (minutes(session), session["max_expires_at"]) == (45, None)
    bench.client.delete(f"/sessions/{session['session_id']}")
    assert minutes(opened(bench, ttl_minutes=46, override=True)) == 46


def test_the_policy_of_a_user_says_where_each_rule_comes_from(bench: Bench) -> None:
    set_policy(bench, "default", max_ttl_minutes=60, gpu_hours_per_week=20)
    set_policy(bench, "vision", max_ttl_minutes=120)
    set_policy(bench, "user:user123", profiles=["1g.5gb"])
    bench.client.put("/users/user123", json={"group": "vision"})
    opened(bench, ttl_minutes=120)
    shown = bench.client.get("/users/user123/policy").json
    assert shown["rules"] == {
        "gpu_hours_per_week": {"value": 20.0, "from": "default"},
        "max_ttl_minutes": {"value": 120, "from": "vision"},
        "profiles": {"value": ["1g.5gb"], "from": "user:user123"},
    }
    assert shown["gpu_hours_of_week"] == pytest.approx(2 / 7, abs=0.01)


def test_a_policy_that_is_removed_does_not_hold_any_more(bench: Bench) -> None:
    set_policy(bench, "default", may_start=False)
    assert bench.client.delete("/policies/default").status_code == 204
    assert bench.client.delete("/policies/default").status_code == 404
    assert bench.client.get("/policies/default").status_code == 404
    opened(bench)


@pytest.mark.parametrize(
    "rules",
    [
        {"max_ttl_minutes": 0},
        {"max_ttl_minutes": "60"},
        {"gpu_hours_per_week": -1},
        {"gpu_hours_per_week": "many"},
        {"gpu_hours_per_week": True},
        {"profiles": "1g.5gb"},
        {"priority": 1001},
        {"priority": 1.5},
        {"max_wait_minutes": -1},
        {"max_wait_minutes": 10081},
        {"may_start": "yes"},
        {"colour": "red"},
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(bench: Bench, rules: dict[str, Any]) -> None:
    assert bench.client.put("/policies/default", json=rules).status_code == 422


def test_changes_are_events_and_repetitions_are_not(bench: Bench) -> None:
    set_policy(bench, "vision", max_ttl_minutes=60)
    set_policy(bench, "vision", max_ttl_minutes=60)
    bench.client.delete("/policies/vision")
    events = [(event["what"], event["detail"]) for event in bench.client.get("/events").json["events"]]
    assert events == [("policy-changed", "vision: max_ttl_minutes 60"), ("policy-removed", "vision")]


def run(url: str, *arguments: str) -> Result:
    return CliRunner().invoke(command, ["policy", "--url", url, *arguments])


def test_the_command_sets_rules_one_by_one(bench: Bench, url: str) -> None:
    run(url, "set", "students", "--profiles", "1g.5gb,2g.10gb", "--max-ttl", "4h", "--gpu-hours", "20")
    run(url, "set", "students", "--max-lease", "1d", "--may-not-start")
    run(url, "set", "students", "--unset", "profiles")
    assert run(url, "list").output == (
        "students: max_ttl_minutes 240, max_lease_minutes 1440, gpu_hours_per_week 20.0, may_start false\n"
    )
    bench.client.put("/users/user123", json={"group": "students"})
    assert [line.split() for line in run(url, "show", "user123").output.splitlines()[:3]] == [
        ["RULE", "VALUE", "FROM"],
        ["gpu_hours_per_week", "20.0", "students"],
        ["max_lease_minutes", "1440", "students"],
    ]
    assert run(url, "remove", "students").exit_code == 0


def test_the_command_sets_every_rule(bench: Bench, url: str) -> None:
    waits = ["--max-wait", "2h", "--priority", "-3", "--idle-minutes", "30", "--max-keep-hours", "0"]
    assert run(url, "set", "guests", *waits, "--images", "default", "--default-ttl", "30m").exit_code == 0
    assert run(url, "list").output == (
        "guests: default_ttl_minutes 30, images default, idle_minutes 30, max_keep_hours 0, priority -3, "
        "max_wait_minutes 120\n"
    )
    assert run(url, "set", "guests", "--no-wait").exit_code == 0
    assert bench.client.get("/policies/guests").json["max_wait_minutes"] == 0
    refused = run(url, "set", "guests", "--priority", "5000")
    assert str(refused.exception) == "Correct these fields: priority (Must be between -1000 and 1000)."


def test_a_file_sets_policies_and_groups(bench: Bench, url: str, tmp_path: Path) -> None:
    set_policy(bench, "old", may_start=False)
    file = tmp_path / "policies.yaml"
    file.write_text(
        """
        policies:
          default: {max_ttl_minutes: 480}
          students: {profiles: [1g.5gb], gpu_hours_per_week: 20}
        users:
          user123: {group: students, email: user123@lab.example}
        """
    )
    done = run(url, "apply", str(file), "--prune")
    assert done.output.splitlines() == [
        "policy default is set",
        "policy students is set",
        "user user123 is set",
        "policy old is removed",
    ]
    rules = bench.client.get("/users/user123/policy").json["rules"]
    assert {rule: found["from"] for rule, found in rules.items()} == {
        "gpu_hours_per_week": "students",
        "max_ttl_minutes": "default",
        "profiles": "students",
    }
    assert run(url, "apply", str(file), "--prune").exit_code == 0


def test_a_name_that_is_none_is_named(bench: Bench, url: str) -> None:
    for arguments, name in (
        (["set", "user:a b", "--priority", "5"], "'user:a b'"),
        (["show", "a b"], "'a b'"),
    ):
        refused = str(run(url, *arguments).exception)
        assert refused.startswith(f"{name} cannot be ")
        assert "Use 1 to 32 characters" in refused
    assert run(url, "set", "a", "--no-wait", "--max-wait", "2h").exit_code == 2


def test_names_in_a_file_are_those_that_are_written(bench: Bench, url: str, tmp_path: Path) -> None:
    """YAML reads numbers and dates, where users and groups have such names."""
    file = tmp_path / "policies.yaml"
    names = ["007", "1e3", "2024", "2025-01-17", "no"]
    policies = "\n".join(f"  {name}: {{max_ttl_minutes: 60}}" for name in names)
    file.write_text(f"policies:\n{policies}\nusers:\n  0123: {{group: '007'}}\n")
    done = run(url, "apply", str(file), "--prune")
    assert done.output.splitlines() == [*(f"policy {name} is set" for name in names), "user 0123 is set"]
    assert [each["name"] for each in bench.client.get("/policies").json["policies"]] == names
    assert bench.client.get("/users/0123").json["group"] == "007"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "policies: {vision: {}, students: {max_ttl_minutes: 2025-01-17}}",
            "policy students: Correct these fields: max_ttl_minutes (Not a valid integer)",
        ),
        (
            "policies: {vision: {}, students: {2025-01-17: 5}}",
            "policy students: Correct these fields: 2025-01-17 (Unknown field)",
        ),
        (
            "policies: {vision: {}, students: {priority: first}}",
            "policy students: Correct these fields: priority",
        ),
        (
            "policies: {vision: {}, 7: {colour: red}}",
            "policy 7: Correct these fields: colour (Unknown field)",
        ),
        ("policies: {vision: {}}\nusers: {Ben!: {}}", "user Ben!: "),
        ("policies: {vision: {}}\nusers: {ben: {email: no}}", "user ben: Correct these fields: email ("),
    ],
)
def test_a_file_is_applied_up_to_what_is_refused(
    bench: Bench, url: str, tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "policies.yaml"
    file.write_text(text)
    done = run(url, "apply", str(file))
    assert done.output == "policy vision is set\n"
    assert message in str(done.exception)
    assert "\n" not in str(done.exception)


@pytest.mark.parametrize(
    "text",
    ["[1, 2", "- a", "policy: {}", "policies: [a]", "policies: {default: 5}", "policies: {<<: {a: {}}}", ""],
)
def test_a_file_that_is_none_is_refused_in_one_line(
    bench: Bench, url: str, tmp_path: Path, text: str
) -> None:
    file = tmp_path / "policies.yaml"
    file.write_text(text)
    done = run(url, "apply", str(file))
    assert done.exit_code != 0
    assert str(file) in str(done.exception)
    assert "\n" not in str(done.exception)


def test_a_time_of_another_zone_counts_the_same(bench: Bench) -> None:
    set_policy(bench, "default", gpu_hours_per_week=1)
    bench.clock.now = datetime(2025, 3, 30, 0, 30, tzinfo=UTC)
    refused(create(bench, mig_profile="7g.40gb", ttl_minutes=61))
    opened(bench, mig_profile="7g.40gb", ttl_minutes=60)
