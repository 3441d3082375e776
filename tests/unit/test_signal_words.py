"""Every signal of a session's use has words in each language."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from gateway.domain.activity import GpuUse, Probe, Reading, Signal, read
from gateway.domain.activity_words import ActivityInWords
from gateway.domain.signal_words import SignalInWords
from gateway.domain.words import Words, columns

NOW = datetime(2025, 1, 17, 8, tzinfo=UTC)
HOUR = timedelta(hours=1)


def readings() -> Iterator[Reading]:
    """Readings with every detail that there is."""
    before = Reading(NOW - HOUR, (), 0, frozenset({"a"}), NOW - HOUR)
    probes = [
        None,
        Probe(None, None, None),
        Probe(0, None, 0),
        Probe(2, 700, 3_600_000_000, frozenset({"a"})),
    ]
    uses = [GpuUse(None), GpuUse(0), GpuUse(1), GpuUse(2), GpuUse(1, 0.5), GpuUse(2, 0.0)]
    for probe in probes:
        for use in uses:
            yield read(probe, use, None, None, NOW)
            yield read(probe, use, NOW + HOUR, before, NOW, silence=timedelta(minutes=5))


SIGNALS = sorted({(each.name, each.state, each.detail) for found in readings() for each in found.signals})


@pytest.mark.parametrize("signal", [Signal(*each) for each in SIGNALS], ids=lambda each: each.detail)
def test_a_signal_is_korean_as_a_whole_and_english_as_the_api_says_it(signal: Signal) -> None:
    korean = SignalInWords(signal, Words(language="ko"))
    shown = f"{korean.name} {korean.state} {korean.detail}"
    assert re.findall(r"[A-Za-z]+", re.sub("CPU|GPU|UTC", "", shown)) == []
    assert re.findall(r"\d+", shown) == re.findall(r"\d+", signal.detail)
    english = SignalInWords(signal, Words())
    assert (english.name, english.state, english.detail) == (signal.name, signal.state, signal.detail)


def test_a_detail_of_a_newer_gateway_stays_as_it_is() -> None:
    signal = Signal("fan", SIGNALS[0][1], "3 turns")
    shown = SignalInWords(signal, Words(language="ko"))
    assert (shown.name, shown.detail) == ("fan", "3 turns")


def test_the_columns_of_the_table_stand_above_each_other_in_each_language() -> None:
    [*_, reading] = readings()
    found = {
        "state": "active",
        "signals": [
            {"name": each.name, "state": each.state, "detail": each.detail} for each in reading.signals
        ],
        "expires_at": f"{NOW + HOUR:%Y-%m-%dT%H:%M:%SZ}",
    }
    for language in ("en", "ko"):
        _, *table, _ = ActivityInWords(found, Words(UTC, language=language)).text(NOW).splitlines()
        begins = {columns(re.match(r"(\S.*?\s\s+)(\S.*?\s\s+)", line)[0]) for line in table}  # type: ignore[index]
        assert len(begins) == 1, table
