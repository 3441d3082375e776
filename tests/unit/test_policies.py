"""Which rule holds for whom, and when a quota allows more again."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.policies import WEEK, Held, Policy, problem_with_name, used_hours
from gateway.errors import PolicyRefused

NOW = datetime(2025, 1, 17, 8, tzinfo=UTC)
HOUR = timedelta(hours=1)


def policy(**rules: object) -> Policy:
    return Policy.of({"default": rules}, "user1", None)


def lease(hours: float, share: float = 1.0, since: datetime = NOW) -> Held:
    return Held(since, since + hours * HOUR, share)


def test_each_rule_comes_from_the_user_else_the_group_else_the_default() -> None:
    found = Policy.of(
        {
            "default": {"max_ttl_minutes": 60, "gpu_hours_per_week": 10, "may_start": True},
            "vision": {"max_ttl_minutes": 120, "gpu_hours_per_week": None},
            "user:user1": {"may_start": False},
            "user:user2": {"max_ttl_minutes": 1},
        },
        "user1",
        "vision",
    )
    assert found.rules == {"may_start": False, "max_ttl_minutes": 120, "gpu_hours_per_week": 10}
    assert found.sources == {
        "may_start": "user:user1",
        "max_ttl_minutes": "vision",
        "gpu_hours_per_week": "default",
    }


@pytest.mark.parametrize(
    ("rules", "wanted", "length"),
    [
        ({}, None, 60),
        ({}, 90, 90),
        ({"default_ttl_minutes": 30}, None, 30),
        ({"default_ttl_minutes": 500, "max_ttl_minutes": 45}, None, 45),
        ({"default_ttl_minutes": 500}, None, 240),
        ({"max_ttl_minutes": 90}, 90, 90),
    ],
)
def test_the_length_of_a_lease(rules: dict[str, int], wanted: int | None, length: int) -> None:
    asked = None if wanted is None else timedelta(minutes=wanted)
    assert policy(**rules).ttl(asked, timedelta(minutes=240)) == timedelta(minutes=length)


def test_a_lease_that_is_too_long_is_refused_with_the_rule_and_the_limit() -> None:
    with pytest.raises(PolicyRefused) as refused:
        policy(max_ttl_minutes=90).ttl(timedelta(minutes=91), timedelta(days=7))
    error = refused.value
    assert (error.rule, error.limit, error.used, error.retry_at) == ("max_ttl_minutes", 90, 91, None)


def test_the_first_allowed_profile_is_the_default() -> None:
    allowed = policy(profiles=["2g.10gb", "1g.5gb"])
    assert allowed.profile(None) == "2g.10gb"
    assert allowed.profile("1g.5gb") == "1g.5gb"
    assert policy().profile(None) is None
    for refused, wanted in (
        (allowed, "3g.20gb"),
        (policy(profiles=[]), None),
        (policy(profiles=[]), "1g.5gb"),
    ):
        with pytest.raises(PolicyRefused):
            refused.profile(wanted)


def test_a_quota_counts_a_lease_as_a_whole() -> None:
    quota = policy(gpu_hours_per_week=10)
    quota.require_hours([], lease(10), NOW)
    quota.require_hours([], lease(70, share=1 / 7), NOW)
    with pytest.raises(PolicyRefused) as refused:
        quota.require_hours([], lease(10.1), NOW)
    assert refused.value.retry_at is None


def test_a_quota_says_when_enough_has_rolled_out() -> None:
    quota = policy(gpu_hours_per_week=10)
    held = [lease(8, since=NOW - 3 * 24 * HOUR)]
    quota.require_hours(held, lease(2), NOW)
    with pytest.raises(PolicyRefused) as refused:
        quota.require_hours(held, lease(5), NOW)
    error = refused.value
    assert (error.limit, error.used) == (10, 8)
    assert error.retry_at == NOW - 3 * 24 * HOUR + 3 * HOUR + WEEK
    quota.require_hours(held, Held(error.retry_at, error.retry_at + 5 * HOUR, 1.0), error.retry_at)


SHARES = st.sampled_from([1 / 7, 3 / 7, 1.0])
PAST = st.lists(st.tuples(st.integers(1, 300), st.integers(1, 48), SHARES), max_size=8)


@given(past=PAST, limit=st.integers(1, 60), hours=st.integers(1, 60), share=st.sampled_from([1 / 7, 1.0]))
def test_the_time_to_retry_is_the_first_at_which_the_lease_fits(
    past: list[tuple[int, int, float]], limit: int, hours: int, share: float
) -> None:
    held = [lease(length, part, NOW - (ago + length) * HOUR) for ago, length, part in past]
    quota = policy(gpu_hours_per_week=limit)

    refusal = refused_at(quota, held, lease(hours, share), NOW)
    if refusal is None:
        return
    if refusal.retry_at is None:
        assert hours * share > limit
        return
    for delay, fits in ((1, True), (-60, False)):
        at = refusal.retry_at + timedelta(seconds=delay)
        assert (refused_at(quota, held, lease(hours, share, at), at) is None) is fits


def refused_at(quota: Policy, held: list[Held], wanted: Held, at: datetime) -> PolicyRefused | None:
    try:
        quota.require_hours(held, wanted, at)
    except PolicyRefused as refusal:
        return refusal
    return None


@given(past=PAST)
def test_nothing_counts_after_a_week(past: list[tuple[int, int, float]]) -> None:
    held = [lease(length, part, NOW - (ago + length) * HOUR) for ago, length, part in past]
    assert used_hours(held, NOW + WEEK) == 0
    assert used_hours(held, NOW) >= used_hours(held, NOW + HOUR)


@pytest.mark.parametrize("name", ["default", "vision", "user:user123", "user:john.doe"])
def test_a_policy_is_for_everyone_a_group_or_a_user(name: str) -> None:
    assert problem_with_name(name) is None


@pytest.mark.parametrize("name", ["", "user:", "user:root", "a b", "group:vision", "x" * 33])
def test_another_name_is_refused(name: str) -> None:
    assert problem_with_name(name)
