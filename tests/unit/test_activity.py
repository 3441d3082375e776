"""Whether a session is used: every signal, active, idle and unknown."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest

from gateway.domain.activity import GpuUse, Probe, Reading, Signal, State, due_at, notice, read

NOW = datetime(2025, 1, 17, 8, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
BEFORE = Reading(NOW - MINUTE, (), cpu_microseconds=1_000_000)
IDLE_PROBE = Probe(connections=0, terminal_seconds=None, cpu_microseconds=1_000_000)

# What each signal reads, by its state.
PROBES: dict[str, dict[State, Probe | None]] = {
    "connections": {
        State.ACTIVE: Probe(1, None, 1_000_000),
        State.IDLE: IDLE_PROBE,
        State.UNKNOWN: Probe(None, None, 1_000_000),
    },
    "terminals": {State.ACTIVE: Probe(0, 5, 1_000_000), State.IDLE: Probe(0, 500, 1_000_000)},
    "cpu": {
        State.ACTIVE: Probe(0, None, 1_000_000 + 3_000_000),  # 5 % of a minute
        State.IDLE: Probe(0, None, 1_000_000 + 2_999_000),
        State.UNKNOWN: Probe(0, None, None),
    },
}
GPUS = {
    State.ACTIVE: [GpuUse(2, 0.5), GpuUse(1, 0.01)],
    State.IDLE: [GpuUse(0), GpuUse(0, 0.0), GpuUse(1, 0.0)],
    State.UNKNOWN: [GpuUse(None), GpuUse(1), GpuUse(1, None)],
}
KEEPS = {State.ACTIVE: NOW + MINUTE, State.IDLE: NOW - MINUTE}


def state_of(reading: Reading, name: str) -> State:
    return next(signal.state for signal in reading.signals if signal.name == name)


@pytest.mark.parametrize(
    ("name", "state"), [(name, state) for name, found in PROBES.items() for state in found]
)
def test_each_signal_of_the_session_decides_alone(name: str, state: State) -> None:
    reading = read(PROBES[name][state], GpuUse(0), None, BEFORE, NOW)
    assert state_of(reading, name) is state
    assert reading.is_idle is (state is State.IDLE)


@pytest.mark.parametrize("state", State)
def test_the_gpu_decides_alone(state: State) -> None:
    for use in GPUS[state]:
        reading = read(IDLE_PROBE, use, None, BEFORE, NOW)
        assert state_of(reading, "gpu") is state
        assert reading.is_idle is (state is State.IDLE)


@pytest.mark.parametrize("state", KEEPS)
def test_a_wish_to_keep_decides_alone(state: State) -> None:
    reading = read(IDLE_PROBE, GpuUse(0), KEEPS[state], BEFORE, NOW)
    assert state_of(reading, "keep") is state
    assert reading.is_idle is (state is State.IDLE)


def test_of_all_combinations_only_the_idle_one_is_idle() -> None:
    names = ("connections", "terminals", "cpu", "gpu", "keep")
    for states in product(State, repeat=len(names)):
        signals = tuple(Signal(name, state, "") for name, state in zip(names, states, strict=True))
        assert Reading(NOW, signals, 0).is_idle is (set(states) == {State.IDLE})


def test_a_session_that_does_not_answer_is_not_idle() -> None:
    reading = read(None, GpuUse(0), None, BEFORE, NOW)
    assert not reading.is_idle
    assert state_of(reading, "terminals") is State.UNKNOWN


def test_the_first_reading_and_a_container_that_began_anew_are_unknown() -> None:
    assert state_of(read(IDLE_PROBE, GpuUse(0), None, None, NOW), "cpu") is State.UNKNOWN
    smaller = Probe(0, None, 5)
    assert state_of(read(smaller, GpuUse(0), None, BEFORE, NOW), "cpu") is State.UNKNOWN


@pytest.mark.parametrize("probe", [IDLE_PROBE, Probe(1, 3, 5, frozenset({"C001"})), None])
def test_a_reading_survives_the_database(probe: Probe | None) -> None:
    reading = read(probe, GpuUse(0), None, BEFORE, NOW)
    assert Reading.of_json(reading.as_json()) == reading


def test_a_reading_of_an_earlier_version_is_read() -> None:
    content = {"at": NOW.isoformat(), "signals": [["cpu", "idle", "0.1%"]], "cpu": 7}
    assert Reading.of_json(content) == Reading(NOW, (Signal("cpu", State.IDLE, "0.1%"),), 7)


def test_a_session_that_did_not_answer_begins_its_silence_anew() -> None:
    probe, silence = Probe(1, None, 5, frozenset({"C001"})), timedelta(hours=1)
    silent = replace(BEFORE, peers=probe.peers, silent_since=NOW - silence)
    assert state_of(read(probe, GpuUse(0), None, silent, NOW, silence), "connections") is State.IDLE
    unanswered = read(None, GpuUse(0), None, silent, NOW, silence)
    later = read(probe, GpuUse(0), None, unanswered, NOW + MINUTE, silence)
    assert state_of(later, "connections") is State.ACTIVE


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0 none",
        "0 none -1 -",
        "0 none 5",
        "0 none 5 6",
        "x none 5 -",
        "0 unknown 5 -",
        "0 none 5 -\n6",
        "0; rm 5 5 -",
        "1 none 5 ,C001",
        "1 none 5 c001",
    ],
)
def test_another_text_is_no_probe(text: str) -> None:
    assert Probe.parse(text) is None


def test_a_probe_is_read_from_what_the_script_prints() -> None:
    assert Probe.parse("2 17 123456 C001,D431\n") == Probe(2, 17, 123456, frozenset({"C001", "D431"}))
    assert Probe.parse("unknown none unknown -\n") == Probe(None, None, None)


def test_readings_are_rare_until_the_end_is_near() -> None:
    hour = timedelta(hours=1)
    reading = Reading(NOW, (), 0)
    assert due_at(None, None, hour) is None
    assert due_at(reading, None, hour) == NOW + 5 * MINUTE
    assert due_at(reading, NOW + 16 * MINUTE, hour) == NOW + 5 * MINUTE
    assert due_at(reading, NOW + 15 * MINUTE, hour) == NOW + MINUTE
    assert due_at(reading, None, 10 * MINUTE) == NOW + MINUTE


def test_a_short_limit_has_a_short_notice() -> None:
    assert notice(timedelta(hours=1)) == 10 * MINUTE
    assert notice(8 * MINUTE) == 4 * MINUTE
