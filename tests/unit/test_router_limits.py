"""How many connections the embedded router accepts, from where and whose."""

from collections.abc import Iterator
from itertools import count

import pytest

from gateway.router import limits
from gateway.router.limits import (
    CONNECTIONS_AT_ONCE,
    FEW_ENOUGH_POINTS,
    MAX_HELD_PER_USER,
    MAX_LOGINS_PER_USER,
    MAX_UNAUTHENTICATED,
    REFUSED,
    TOO_MANY_POINTS,
    Limits,
    source_of,
)

FLOODER, OTHER = "192.0.2.1", "192.0.2.2"
FAILURES = int(TOO_MANY_POINTS / REFUSED) + 1


@pytest.fixture
def rules() -> Limits:
    return Limits(choose=min)


@pytest.fixture
def numbers() -> Iterator[int]:
    return count()


def fail(rules: Limits, numbers: Iterator[int], address: str, now: float = 0.0) -> None:
    number = next(numbers)
    rules.arrived(number, address, now)
    rules.failed(number, REFUSED, now)
    rules.left(number)


def test_a_flood_of_idle_connections_never_keeps_a_new_one_out(rules: Limits, numbers: Iterator[int]) -> None:
    idle = [next(numbers) for _ in range(MAX_UNAUTHENTICATED)]
    for number in idle:
        assert rules.refusal(FLOODER, number) is None
        assert rules.arrived(number, FLOODER, number) is None
    assert rules.refusal(OTHER, 0) is None
    assert rules.arrived(next(numbers), OTHER, 0) in idle


def test_the_address_with_the_most_connections_pays_for_a_new_one(
    rules: Limits, numbers: Iterator[int]
) -> None:
    few = [next(numbers) for _ in range(10)]
    many = [next(numbers) for _ in range(MAX_UNAUTHENTICATED - 10)]
    for number in (*few, *many):
        rules.arrived(number, OTHER if number in few else FLOODER, number)
    assert rules.arrived(next(numbers), OTHER, 9999) in many


def test_a_connection_is_never_dropped_for_its_own_sake(rules: Limits, numbers: Iterator[int]) -> None:
    for number in range(MAX_UNAUTHENTICATED):
        rules.arrived(next(numbers), FLOODER, number)
    newest = next(numbers)
    assert rules.arrived(newest, FLOODER, 9999) != newest


def test_logged_in_connections_do_not_count_as_unauthenticated(rules: Limits, numbers: Iterator[int]) -> None:
    for now in range(MAX_UNAUTHENTICATED + 50):
        number = next(numbers)
        assert rules.arrived(number, FLOODER, now) is None
        assert rules.log_in(number, f"user{number}", now) is None


def test_failures_block_their_address_and_no_other(rules: Limits, numbers: Iterator[int]) -> None:
    for _ in range(FAILURES):
        assert rules.refusal(FLOODER, 0) is None
        fail(rules, numbers, FLOODER)
    refusal = rules.refusal(FLOODER, 0)
    assert refusal is not None
    assert "too many failed logins from your address" in refusal
    assert rules.refusal(OTHER, 0) is None


def test_a_blocked_address_is_free_again_when_the_refusal_says_so(
    rules: Limits, numbers: Iterator[int]
) -> None:
    for _ in range(FAILURES):
        fail(rules, numbers, FLOODER)
    refusal = rules.refusal(FLOODER, 0)
    assert refusal is not None
    seconds = int(refusal.split()[-2])
    assert rules.refusal(FLOODER, seconds - 2) is not None
    assert rules.refusal(FLOODER, seconds) is None
    assert seconds >= TOO_MANY_POINTS - FEW_ENOUGH_POINTS


def test_the_time_of_a_block_has_a_bound(rules: Limits, numbers: Iterator[int]) -> None:
    for _ in range(FAILURES * 50):
        fail(rules, numbers, FLOODER)
    assert rules.refusal(FLOODER, 2 * TOO_MANY_POINTS) is None


def test_failures_now_and_then_block_nobody(rules: Limits, numbers: Iterator[int]) -> None:
    for now in range(0, 100 * FAILURES, 3):
        fail(rules, numbers, FLOODER, now)
        assert rules.refusal(FLOODER, now) is None


def test_logins_from_an_address_make_up_for_failures(rules: Limits, numbers: Iterator[int]) -> None:
    """Behind one address there may be a whole institute."""
    for _ in range(20):
        for _ in range(int(limits.FORGIVEN_AT_A_LOGIN / REFUSED)):  # no more than what is forgiven
            fail(rules, numbers, FLOODER)
        number = next(numbers)
        rules.arrived(number, FLOODER, 0)
        assert rules.log_in(number, f"user{number}", 0) is None
        assert "failed logins" not in (rules.refusal(FLOODER, 0) or "")


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_a_source_is_an_ipv4_address_or_a_64_of_ipv6(address: str, source: str) -> None:
    assert source_of(address) == source


def test_failures_block_a_whole_64_of_ipv6(rules: Limits, numbers: Iterator[int]) -> None:
    for last in range(FAILURES):
        fail(rules, numbers, f"2001:db8::{last:x}")
    assert rules.refusal("2001:db8::ffff", 0) is not None
    assert rules.refusal("2001:db8:0:1::1", 0) is None


def test_connections_of_an_address_have_a_rate(rules: Limits, numbers: Iterator[int]) -> None:
    for _ in range(CONNECTIONS_AT_ONCE):
        assert rules.refusal(FLOODER, 0) is None
        number = next(numbers)
        rules.arrived(number, FLOODER, 0)
        rules.left(number)
    assert "in a short time" in (rules.refusal(FLOODER, 0) or "")
    assert rules.refusal(OTHER, 0) is None
    assert rules.refusal(FLOODER, 1) is None


def test_logins_of_a_user_are_limited_and_those_of_others_are_not(
    rules: Limits, numbers: Iterator[int]
) -> None:
    logins = [next(numbers) for _ in range(MAX_LOGINS_PER_USER)]
    for number in logins:
        rules.arrived(number, FLOODER, number)
        assert rules.log_in(number, "user123", number) is None
    one_more = next(numbers)
    rules.arrived(one_more, FLOODER, 0)
    assert "close some of them first" in (rules.log_in(one_more, "user123", 0) or "")
    assert rules.log_in(one_more, "user456", 0) is None
    rules.left(logins[0])
    another = next(numbers)
    rules.arrived(another, FLOODER, 0)
    assert rules.log_in(another, "user123", 0) is None


def test_few_logins_of_a_user_wait_at_a_time(rules: Limits, numbers: Iterator[int]) -> None:
    held = [next(numbers) for _ in range(MAX_HELD_PER_USER + 1)]
    for number in held:
        rules.arrived(number, OTHER, 0)
    assert [rules.log_in(number, "ann", 0, held=True) for number in held[:-1]] == [None] * MAX_HELD_PER_USER
    assert "wait already" in str(rules.log_in(held[-1], "ann", 0, held=True))
    assert rules.log_in(held[-1], "ann", 0) is None
    rules.release(held[0])
    assert _arrives_and_waits(rules, next(numbers), "ann") is None
    assert _arrives_and_waits(rules, next(numbers), "ann") is not None
    rules.left(held[1])
    assert _arrives_and_waits(rules, next(numbers), "ann") is None
    assert _arrives_and_waits(rules, next(numbers), "ben") is None


def _arrives_and_waits(rules: Limits, number: int, user: str) -> str | None:
    rules.arrived(number, OTHER, 0)
    return rules.log_in(number, user, 0, held=True)
