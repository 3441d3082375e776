"""/usage and `gateway usage`: what each user had."""

import csv
import io
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.cli import gateway as command
from gateway.domain.permissions import Role
from gateway.services.tokens import Tokens
from tests.client import ApiClient
from tests.conftest import Bench, BenchMaker
from tests.fakes.gpus import FakeGpus

KOREA = ZoneInfo("Asia/Seoul")
ALWAYS = "since=2000-01-01&until=2100-01-01"


@pytest.fixture
def bench(bench_of: BenchMaker) -> Bench:
    bench = bench_of(FakeGpus(["A100-40GB"] * 4), timezone=KOREA, max_ttl_minutes=100000)
    bench.clock.now = datetime(2025, 1, 17, 8, tzinfo=UTC)
    return bench


def session(bench: Bench, user_id: str = "user1", profile: str = "3g.20gb") -> str:
    body = {"user_id": user_id, "mig_profile": profile, "ttl_minutes": 100000}
    response = bench.client.post("/sessions", json=body)
    assert response.status_code == 201, response.text
    return str(response.json["session_id"])


def usage(client: ApiClient, query: str = ALWAYS) -> list[dict[str, Any]]:
    response = client.get(f"/usage?{query}")
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json["usage"]
    return found


def test_an_hour_of_a_slice_is_its_share_of_a_gpu_hour(bench: Bench) -> None:
    id = session(bench)
    bench.clock.advance(hours=7)
    bench.client.delete(f"/sessions/{id}")
    [line] = usage(bench.client)
    assert (line["user"], line["sessions"], line["lease_seconds"]) == ("user1", 1, 7 * 3600)
    assert line["gpu_seconds"] == pytest.approx(3 * 3600)


def test_a_live_session_counts_until_now(bench: Bench) -> None:
    session(bench)
    bench.clock.advance(minutes=10)
    [line] = usage(bench.client)
    assert (line["sessions"], line["lease_seconds"]) == (1, 600)


def test_usage_outlives_the_history(bench: Bench) -> None:
    id = session(bench)
    bench.clock.advance(hours=1)
    bench.client.delete(f"/sessions/{id}")
    bench.clock.advance(days=4000)
    bench.reconciler.reconcile()
    assert bench.client.get(f"/sessions/{id}").status_code == 404
    assert [line["lease_seconds"] for line in usage(bench.client)] == [3600]


def test_a_session_over_midnight_counts_on_both_days_of_the_time_zone(bench: Bench) -> None:
    bench.clock.now = datetime(2025, 1, 31, 14, 30, tzinfo=UTC)  # 23:30 in Seoul
    id = session(bench)
    bench.clock.advance(hours=2)
    bench.client.delete(f"/sessions/{id}")
    days = {
        line["day"]: (line["sessions"], line["lease_seconds"])
        for line in usage(bench.client, f"{ALWAYS}&by=day")
    }
    assert days == {"2025-01-31": (1, 1800), "2025-02-01": (0, 5400)}
    assert [line["lease_seconds"] for line in usage(bench.client, "since=2025-02-01&until=2025-02-28")] == [
        5400
    ]


def test_the_report_is_of_this_month_if_no_day_is_given(bench: Bench) -> None:
    response = bench.client.get("/usage").json
    assert (response["since"], response["until"], response["by"]) == ("2025-01-01", "2025-01-17", "user")


def test_the_group_that_a_user_had_keeps_the_hours(bench: Bench) -> None:
    for group in ("vision", "speech"):
        bench.client.put("/users/user1", json={"group": group, "email": "user1@lab.example"})
        id = session(bench)
        bench.clock.advance(hours=1)
        bench.client.delete(f"/sessions/{id}")
    assert bench.client.get("/users/user1").json == {
        "user_id": "user1",
        "group": "speech",
        "email": "user1@lab.example",
        "workspace_bytes": None,
        "workspace_quota_bytes": None,
    }
    groups = {line["group"]: line["lease_seconds"] for line in usage(bench.client, f"{ALWAYS}&by=group")}
    assert groups == {"vision": 3600, "speech": 3600}


def test_csv_is_for_spreadsheets(bench: Bench) -> None:
    bench.client.put("/users/user1", json={"group": "vision"})
    session(bench)
    bench.clock.advance(hours=310, minutes=30)
    response = bench.client.get(f"/usage?{ALWAYS}", headers={"Accept": "text/csv"})
    assert response.content_type == "text/csv; charset=utf-8"
    assert list(csv.DictReader(io.StringIO(response.text))) == [
        {
            "user": "user1",
            "group": "vision",
            "sessions": "1",
            "lease_hours": "310.50",
            "gpu_hours": "133.07",
            "idle_hours": "0.00",
        }
    ]


def test_users_see_only_their_own(bench: Bench) -> None:
    for user in ("user1", "user2"):
        bench.client.delete(f"/sessions/{session(bench, user)}")
    own = bench.client
    secret = Tokens(bench.database, bench.clock).create("own", Role.USER, "user2")
    own.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {secret}"
    assert [line["user"] for line in usage(own)] == ["user2"]
    assert own.put("/users/user2", json={"group": "root"}).status_code == 403
    assert own.get("/users/user1").status_code == 403


@pytest.mark.parametrize(
    "query", ["since=2025-02-01&until=2025-01-01", "since=yesterday", "by=colour", "x=1"]
)
def test_a_query_that_makes_no_sense_is_refused(bench: Bench, query: str) -> None:
    assert bench.client.get(f"/usage?{query}").status_code == 422


@pytest.mark.parametrize("body", [{"group": "a b"}, {"group": ""}, {"email": "nobody"}, {"group": "=1+1"}])
def test_a_group_or_an_address_that_is_none_is_refused(bench: Bench, body: dict[str, str]) -> None:
    assert bench.client.put("/users/user1", json=body).status_code == 422


def test_a_user_whom_nobody_knows_is_not_found(bench: Bench) -> None:
    assert bench.client.get("/users/user1").status_code == 404


STEP = st.tuples(st.sampled_from(["open", "close", "wait"]), st.integers(0, 4), st.integers(0, 200_000))


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(steps=st.lists(STEP, max_size=12))
def test_the_report_equals_the_audit_log_to_the_second(
    bench: Bench, steps: list[tuple[str, int, int]]
) -> None:
    live: dict[str, str] = {}
    for act, number, milliseconds in steps:
        user = f"user{number}"
        bench.clock.advance(seconds=milliseconds / 1.7)
        if act == "open" and user not in live:
            live[user] = session(bench, user, ["1g.5gb", "2g.10gb", "3g.20gb"][number % 3])
        if act == "close" and user in live:
            bench.client.delete(f"/sessions/{live.pop(user)}")
    for id in live.values():
        bench.client.delete(f"/sessions/{id}")
    for by in ("user", "group", "profile", "day"):
        lines = usage(bench.client, f"{ALWAYS}&by={by}")
        assert sum(line["lease_seconds"] for line in lines) == seconds_of_the_audit_log(bench)


def seconds_of_the_audit_log(bench: Bench) -> int:
    """From each `opened` to its `ended`, as anybody would sum it up by hand."""
    opened, total = {}, timedelta()
    with bench.database.read() as rows:
        events = rows.events()
    for event in events:
        at = event.at.replace(microsecond=0)
        if event.what == "opened":
            opened[event.session_id] = at
        if event.what == "ended" and event.session_id in opened:
            total += at - opened.pop(event.session_id)
    return round(total.total_seconds())


def test_the_command_prints_a_table_and_csv(bench: Bench, url: str) -> None:
    session(bench)
    bench.clock.advance(hours=7)
    days = ["--since", "2025-01-01", "--until", f"{date(2025, 12, 31)}"]
    table = CliRunner().invoke(command, ["usage", "--url", url, *days])
    assert [line.split() for line in table.output.splitlines()] == [
        ["USER", "GROUP", "SESSIONS", "LEASE", "HOURS", "GPU-HOURS", "IDLE", "HOURS"],
        ["user1", "-", "1", "7.00", "3.00", "0.00"],
    ]
    as_csv = CliRunner().invoke(command, ["usage", "--url", url, *days, "--by", "profile", "--csv"])
    assert as_csv.output.splitlines() == [
        "profile,sessions,lease_hours,gpu_hours,idle_hours",
        "3g.20gb,1,7.00,3.00,0.00",
    ]
