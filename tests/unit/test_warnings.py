"""What is due before a lease ends: the closest warning only, once, and again after an extension."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.clock import Moment
from gateway.domain.models import Session
from gateway.domain.states import Reason, Status
from gateway.domain.warnings import Due, Step, WarningPlan, record

START = Moment(datetime(2025, 1, 17, 8, tzinfo=UTC), "first", timedelta(days=1))
MINUTE = timedelta(minutes=1)
PLAN = WarningPlan((30, 10, 2), timedelta(seconds=30))


def session(minutes: float) -> Session:
    made = Session(id="s", status=Status.PENDING)
    made.lease_from(START, timedelta(minutes=minutes))
    made.status = Status.ACTIVE
    return made


def before_the_end(made: Session, minutes: float) -> Moment:
    passed = made.lease - timedelta(minutes=minutes)
    return Moment(START.wall + passed, START.boot, START.uptime + passed)


def due(made: Session, minutes: float, plan: WarningPlan = PLAN) -> list[Due]:
    """What is due at this many minutes before the end."""
    return list(plan.due(made, before_the_end(made, minutes)))


def warning(level: int) -> list[Due]:
    return [Due(Step.WARN, level)]


@pytest.mark.parametrize(
    ("minutes", "level"),
    [(31, None), (30.01, None), (30, 30), (29, 30), (10.01, 30), (10, 10), (9, 10), (5.01, 10)],
)
def test_only_the_closest_level_is_due(minutes: float, level: int | None) -> None:
    assert due(session(240), minutes) == (warning(level) if level else [])


def test_each_level_is_given_once() -> None:
    made, given = session(240), []
    for second in range(40 * 60, -1, -1):
        for step in due(made, second / 60):
            record(made, step)
            given.append((step.step.value, step.minutes, second))
    assert given == [
        ("warn", 30, 1800),
        ("warn", 10, 600),
        ("hook", 0, 300),
        ("warn", 2, 120),
        ("signal", 0, 30),
    ]


def test_a_gateway_that_comes_late_gives_the_last_warning_and_skips_none_of_the_other_steps() -> None:
    made = session(240)
    assert due(made, 0.4) == [Due(Step.WARN, 2), Due(Step.HOOK), Due(Step.SIGNAL)]


@pytest.mark.parametrize(
    ("lease", "levels"),
    [(240, [30, 10, 2]), (60, [30, 10, 2]), (59, [10, 2]), (20, [10, 2]), (19, [2]), (4, [2]), (3, [])],
)
def test_a_short_lease_is_warned_in_its_second_half_only(lease: int, levels: list[int]) -> None:
    made, given = session(lease), []
    for second in range(lease * 60, 0, -1):
        for step in due(made, second / 60):
            record(made, step)
            given += [step.minutes] if step.step is Step.WARN else []
    assert given == levels


def test_the_hook_of_a_lease_of_nine_minutes_does_not_run_at_its_beginning() -> None:
    made = session(9)
    assert Due(Step.HOOK) not in due(made, 5)
    assert Due(Step.HOOK) in due(session(10), 5)


def test_an_extension_arms_every_step_again() -> None:
    made = session(240)
    for step in due(made, 0.4):
        record(made, step)
    assert due(made, 0.3) == []
    made.extend(60 * MINUTE)
    assert due(made, 60.3) == []
    assert due(made, 30) == warning(30)
    assert due(made, 0.4) == [Due(Step.WARN, 2), Due(Step.HOOK), Due(Step.SIGNAL)]


def test_setting_the_wall_clock_arms_nothing() -> None:
    made = session(240)
    record(made, Due(Step.WARN, 10))
    now = before_the_end(made, 8)
    jumped = Moment(now.wall + timedelta(hours=5), now.boot, now.uptime)
    made.follow_wall_clock(jumped)
    assert list(PLAN.due(made, jumped)) == []


@pytest.mark.parametrize("minutes", [0, -1])
def test_nothing_is_due_after_the_end(minutes: float) -> None:
    assert due(session(240), minutes) == []


def test_a_session_that_is_opened_or_closing_is_left_alone() -> None:
    pending, closing = Session(id="s", status=Status.PENDING), session(240)
    pending.lease_from(START, timedelta(minutes=240))
    closing.close(Reason.DELETED)
    assert due(pending, 1) == due(closing, 1) == []


def test_warnings_and_the_signal_can_be_off() -> None:
    assert due(session(240), 0.1, WarningPlan((), timedelta())) == [Due(Step.HOOK)]
    assert WarningPlan((), timedelta()).steps == [(Step.HOOK, 5 * MINUTE)]


@given(
    lease=st.integers(1, 600),
    levels=st.sets(st.integers(1, 300), max_size=5),
    pauses=st.lists(st.integers(1, 2000), max_size=40),
    extensions=st.sets(st.integers(0, 39)),
)
def test_no_step_is_given_twice_for_one_end_and_each_closer_one_follows(
    lease: int, levels: set[int], pauses: list[int], extensions: set[int]
) -> None:
    """However irregularly the gateway looks, and however often the lease is extended."""
    made, plan, now = session(lease), WarningPlan(tuple(levels), timedelta(seconds=30)), START
    given: set[tuple[int, Due]] = set()
    for number, pause in enumerate(pauses):
        for step in plan.due(made, now):
            key = (made.lease_seconds, step)
            assert key not in given
            assert made.time_left(now) <= max(before for _, before in plan.steps)
            if step.step is Step.WARN:
                assert step.minutes * MINUTE * 2 <= made.lease
                before = [known for length, known in given if length == made.lease_seconds]
                assert all(known.minutes > step.minutes for known in before if known.step is Step.WARN)
            given.add(key)
            record(made, step)
        assert list(plan.due(made, now)) == []
        if number in extensions and made.time_left(now) > timedelta():
            made.extend(7 * MINUTE)
        now = Moment(now.wall + timedelta(seconds=pause), now.boot, now.uptime + timedelta(seconds=pause))
