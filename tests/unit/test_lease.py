"""What an extension may add to a lease."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.clock import Moment
from gateway.domain.lease import Extension, LeaseLimit
from gateway.domain.models import Session
from gateway.domain.states import Reason, Status
from gateway.errors import LeaseMoved, LeaseTooLong, SessionEnded

HOUR = timedelta(hours=1)
NOW = Moment(datetime(2025, 1, 17, 8, tzinfo=UTC), "first", timedelta(days=1))


def session(ttl: timedelta = HOUR) -> Session:
    made = Session(id="s", status=Status.PENDING)
    made.lease_from(NOW, ttl)
    made.status = Status.ACTIVE
    return made


def later(span: timedelta) -> Moment:
    return Moment(NOW.wall + span, NOW.boot, NOW.uptime + span)


def extend(made: Session, limit: LeaseLimit, extension: Extension, now: Moment = NOW) -> None:
    made.extend(limit.grant(made, extension, now))


def test_minutes_are_added_to_the_end_and_not_to_the_present() -> None:
    made = session()
    extend(made, LeaseLimit(24 * HOUR), Extension(2 * HOUR), later(HOUR / 2))
    assert made.expires_at == NOW.wall + 3 * HOUR
    assert made.time_left(later(HOUR / 2)) == 2.5 * HOUR
    assert (made.lease, made.extended_minutes) == (3 * HOUR, 120)


def test_the_limit_counts_from_the_beginning_of_the_lease() -> None:
    made, limit = session(), LeaseLimit(4 * HOUR)
    assert limit.latest_end(made) == NOW.wall + 4 * HOUR
    extend(made, limit, Extension(3 * HOUR))
    assert limit.latest_end(made) is None
    with pytest.raises(LeaseTooLong, match="cannot be extended any more") as refused:
        extend(made, limit, Extension(timedelta(minutes=1)))
    assert refused.value.latest_end is None


def test_a_minute_too_much_is_refused_and_changes_nothing() -> None:
    made = session()
    with pytest.raises(LeaseTooLong, match="at most 4 hours") as refused:
        extend(made, LeaseLimit(4 * HOUR), Extension(3 * HOUR + timedelta(minutes=1)))
    assert refused.value.latest_end == NOW.wall + 4 * HOUR
    assert made.expires_at == NOW.wall + HOUR


def test_as_much_as_possible_ends_at_the_limit_once() -> None:
    made, limit = session(), LeaseLimit(4 * HOUR)
    extend(made, limit, Extension(None))
    assert made.expires_at == NOW.wall + 4 * HOUR
    with pytest.raises(LeaseTooLong):
        extend(made, limit, Extension(None))


def test_an_override_goes_beyond_the_limit_and_not_beyond_reason() -> None:
    made, limit = session(), LeaseLimit(HOUR)
    extend(made, limit, Extension(48 * HOUR, is_override=True))
    assert made.expires_at == NOW.wall + 49 * HOUR
    with pytest.raises(LeaseTooLong):
        extend(made, limit, Extension(timedelta(days=3650), is_override=True))
    assert limit.latest_end(made) is None


def test_a_limit_that_was_lowered_takes_nothing_back() -> None:
    made = session(10 * HOUR)
    assert LeaseLimit(HOUR).latest_end(made) is None
    with pytest.raises(LeaseTooLong):
        extend(made, LeaseLimit(HOUR), Extension(HOUR))


def test_another_end_than_the_caller_saw_is_told_and_nothing_is_added() -> None:
    made, limit = session(), LeaseLimit(24 * HOUR)
    seen = made.expires_at
    extend(made, limit, Extension(HOUR, seen))
    with pytest.raises(LeaseMoved) as moved:
        extend(made, limit, Extension(HOUR, seen))
    assert moved.value.expires_at == made.expires_at == NOW.wall + 2 * HOUR


@pytest.mark.parametrize("past", [timedelta(), timedelta(microseconds=1), HOUR])
def test_a_lease_that_is_over_is_not_extended(past: timedelta) -> None:
    with pytest.raises(SessionEnded) as ended:
        extend(session(), LeaseLimit(24 * HOUR), Extension(HOUR, is_override=True), later(HOUR + past))
    assert ended.value.reason == Reason.EXPIRED


def test_the_last_moment_of_a_lease_is_early_enough() -> None:
    made = session()
    extend(made, LeaseLimit(24 * HOUR), Extension(HOUR), later(HOUR - timedelta(microseconds=1)))
    assert made.expires_at == NOW.wall + 2 * HOUR


def test_a_closing_session_keeps_its_first_reason() -> None:
    made = session()
    made.close(Reason.GPU_LOST)
    with pytest.raises(SessionEnded) as ended:
        extend(made, LeaseLimit(24 * HOUR), Extension(HOUR))
    assert ended.value.reason == Reason.GPU_LOST
    assert LeaseLimit(24 * HOUR).latest_end(made) is None


def test_setting_the_wall_clock_changes_neither_lease_nor_limit() -> None:
    made, limit = session(), LeaseLimit(4 * HOUR)
    jumped = Moment(NOW.wall + 100 * HOUR, NOW.boot, NOW.uptime + HOUR / 2)
    made.follow_wall_clock(jumped)
    extend(made, limit, Extension(3 * HOUR), jumped)
    assert made.time_left(jumped) == 3.5 * HOUR
    assert limit.latest_end(made) is None


MINUTES = st.integers(1, 600)
REQUESTS = st.lists(st.tuples(st.one_of(st.none(), MINUTES), st.booleans(), MINUTES), max_size=30)


@given(ttl=MINUTES, cap=st.integers(1, 2000), requests=REQUESTS)
def test_no_sequence_of_extensions_goes_past_the_limit(
    ttl: int, cap: int, requests: list[tuple[int | None, bool, int]]
) -> None:
    """Some requests carry the end that they saw, and are sent twice; some come late."""
    made, limit, now = session(timedelta(minutes=ttl)), LeaseLimit(timedelta(minutes=cap)), NOW
    for minutes, twice, wait in requests:
        by, ends = None if minutes is None else timedelta(minutes=minutes), made.expires_at
        extension, before, left = Extension(by, ends if twice else None), made.expires_at, made.time_left(now)
        try:
            extend(made, limit, extension, now)
        except (LeaseTooLong, SessionEnded):
            assert made.expires_at == before
        else:
            assert left > timedelta()
            assert before < made.expires_at <= max(before, NOW.wall + timedelta(minutes=cap))
            if twice:
                with pytest.raises(LeaseMoved):
                    extend(made, limit, extension, now)
        assert made.time_left(now) == made.expires_at - now.wall
        assert made.lease == made.expires_at - made.created_at
        assert made.lease == timedelta(minutes=ttl + made.extended_minutes)
        now = Moment(now.wall + timedelta(seconds=wait), now.boot, now.uptime + timedelta(seconds=wait))
