"""Spans of time, as people write and read them."""

from datetime import UTC, datetime, timedelta

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli.durations import Expiry
from gateway.domain import durations


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("90m", 90),
        ("2h", 120),
        ("1d", 1440),
        ("1h30m", 90),
        ("1d12h", 2160),
        ("1d1h1m", 1501),
        (" 2H ", 120),
        ("100000m", 100000),
    ],
)
def test_a_duration_is_read(text: str, minutes: int) -> None:
    assert durations.parse(text) == timedelta(minutes=minutes)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "2",
        "h",
        "0m",
        "-1h",
        "1.5h",
        "2 h",
        "1h1h",
        "30m1h",
        "2w",
        "60s",
        "٢h",
        "1h\n2h",
        "max",
        "9999999999999999999d",
        "99999999999d",
    ],
)
def test_what_is_not_a_duration_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        durations.parse(text)


@given(st.integers(1, 99_999))
def test_what_is_written_is_read_again(minutes: int) -> None:
    assert durations.parse(durations.write(timedelta(minutes=minutes))) == timedelta(minutes=minutes)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-5, "0 seconds"),
        (0, "0 seconds"),
        (1, "1 second"),
        (30, "30 seconds"),
        (60, "60 seconds"),
        (119, "119 seconds"),
        (120, "2 minutes"),
        (598, "10 minutes"),
        (3600, "1 hour"),
        (5400, "90 minutes"),
        (4320 + 3600, "2 h 12 min"),
        (14400, "4 hours"),
        (86400, "1 day"),
        (7 * 86400, "7 days"),
        (86400 + 3 * 3600, "27 hours"),
        (86400 + 3600 + 60, "1 d 1 h 1 min"),
    ],
)
def test_a_span_reads_well_in_a_sentence(seconds: int, words: str) -> None:
    assert durations.in_words(timedelta(seconds=seconds)) == words


def test_a_token_that_expires_on_a_day_is_valid_until_its_end() -> None:
    assert Expiry().convert("2026-12-31", None, None) == datetime(2027, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("text", ["soon", "30", "d", "123456d", "2026-02-30", "9999-12-31"])
def test_what_is_neither_days_nor_a_day_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="neither days such as 30d nor a day"):
        Expiry().convert(text, None, None)
