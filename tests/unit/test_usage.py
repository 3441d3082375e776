"""How a session's time is divided into days, and how reports sum it up."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.usage import By, Usage, by_day, report, share_of

ZONES = [ZoneInfo(name) for name in ("UTC", "Asia/Seoul", "Europe/Berlin", "Africa/Cairo", "Asia/Kathmandu")]
TIMES = st.datetimes(datetime(2023, 1, 1), datetime(2026, 12, 31), timezones=st.just(UTC))


@given(since=TIMES, seconds=st.integers(0, 40 * 86400), zone=st.sampled_from(ZONES))
def test_the_days_of_a_session_sum_up_to_its_length_to_the_second(
    since: datetime, seconds: int, zone: ZoneInfo
) -> None:
    until = since + timedelta(seconds=seconds)
    days = list(by_day(since, until, zone))
    assert sum(part for _, part in days) == seconds
    assert [day for day, _ in days] == sorted({day for day, _ in days})
    assert days[0][0] == since.astimezone(zone).date()
    assert all(0 <= part <= 25 * 3600 for _, part in days)


def test_a_day_on_which_clocks_change_has_23_or_25_hours() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    since = datetime(2025, 3, 28, 23, tzinfo=UTC)
    found = dict(by_day(since, since + timedelta(days=3), berlin))
    assert found[date(2025, 3, 29)] == 24 * 3600
    assert found[date(2025, 3, 30)] == 23 * 3600


def test_a_session_belongs_to_the_day_of_the_time_zone() -> None:
    at = datetime(2025, 1, 31, 20, tzinfo=UTC)  # 05:00 of February in Seoul
    assert list(by_day(at, at + timedelta(hours=1), ZoneInfo("Asia/Seoul"))) == [(date(2025, 2, 1), 3600)]
    assert list(by_day(at, at + timedelta(hours=1), ZoneInfo("UTC"))) == [(date(2025, 1, 31), 3600)]


def test_a_clock_that_was_set_back_takes_nothing_away() -> None:
    at = datetime(2025, 1, 1, tzinfo=UTC)
    assert list(by_day(at, at - timedelta(hours=1), UTC)) == [(date(2025, 1, 1), 0)]


@pytest.mark.parametrize(
    ("profile", "share"),
    [
        ("1g.5gb", 1 / 7),
        ("3g.20gb", 3 / 7),
        ("7g.40gb", 1),
        ("1g.5gb+me", 1 / 7),
        ("full", 1),
    ],
)
def test_the_name_of_a_profile_tells_its_share_of_a_gpu(profile: str, share: float) -> None:
    assert share_of(profile) == pytest.approx(share)


def usage(**changes: object) -> Usage:
    values = {
        "day": date(2025, 1, 1),
        "user_id": "user1",
        "group": "vision",
        "mig_profile": "1g.5gb",
        "sessions": 1,
        "lease_seconds": 700,
        "gpu_seconds": 100.0,
    }
    return Usage(**(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("by", By)
def test_every_report_has_the_same_sums(by: By) -> None:
    found = [
        usage(day=date(2025, 1, day), user_id=user, group=group, mig_profile=profile)
        for day in (1, 2)
        for user, group in (("user1", "vision"), ("user1", ""), ("user2", "vision"))
        for profile in ("1g.5gb", "3g.20gb")
    ]
    lines = report(found, by)
    assert sum(line.sessions for line in lines) == 12
    assert sum(line.lease_seconds for line in lines) == 12 * 700
    assert sum(line.gpu_seconds for line in lines) == pytest.approx(1200)
    expected = {By.USER: 3, By.GROUP: 2, By.PROFILE: 2, By.DAY: 2}
    assert len(lines) == expected[by]
