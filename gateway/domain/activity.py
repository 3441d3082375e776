"""Whether anybody uses a session: signals, and one verdict about all of them. Pure.

A session is idle only if every signal says so. What is unknown counts as active.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

BUSY_CPU, BUSY_GPU = 0.05, 0.01  # of one CPU; of the slice
NOTICE = timedelta(minutes=10)  # between the warning and the end
_RARE, _OFTEN = timedelta(minutes=5), timedelta(minutes=1)
_NEAR_THE_END = timedelta(minutes=15)
_PRINTED = re.compile(r"([0-9]+|unknown) ([0-9]+|none) ([0-9]+|unknown) (-|[0-9A-F]{4}(?:,[0-9A-F]{4})*)")


class State(StrEnum):
    ACTIVE = "active"
    IDLE = "idle"
    UNKNOWN = "unknown"


class IdlePolicy(StrEnum):
    """When an idle session ends."""

    WAITING = "waiting"  # only if somebody else then gets a session earlier
    ALWAYS = "always"


@dataclass(frozen=True, slots=True)
class Probe:
    """What a session said about itself. `terminal_seconds`: since a terminal was last used, None without a
    terminal. `cpu_microseconds` counts from the container's start. None of the others is unknown. `peers` are
    the other ends of the connections."""

    connections: int | None
    terminal_seconds: int | None
    cpu_microseconds: int | None
    peers: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, text: str) -> "Probe | None":
        """Return what the script `activity` printed; None if it is something else."""
        found = _PRINTED.fullmatch(text.strip())
        if found is None:
            return None
        connections, terminal, cpu = (int(each) if each.isdecimal() else None for each in found.groups()[:3])
        peers = frozenset(found[4].split(",")) - {"-"}
        return cls(connections, terminal, cpu, peers)


@dataclass(frozen=True, slots=True)
class GpuUse:
    """`processes` on the slice, None if the driver does not say. `busy` is the part of the time in which the
    slice worked, None without a meter."""

    processes: int | None
    busy: float | None = None


@dataclass(frozen=True, slots=True)
class Signal:
    name: str
    state: State
    detail: str


@dataclass(frozen=True, slots=True)
class Reading:
    """The signals of one moment, as the session's row keeps them. No connection was opened, and nothing was
    typed or printed, since `silent_since`; None if that is unknown."""

    at: datetime
    signals: tuple[Signal, ...]
    cpu_microseconds: int | None
    peers: frozenset[str] = frozenset()
    silent_since: datetime | None = None

    @property
    def is_idle(self) -> bool:
        return all(signal.state is State.IDLE for signal in self.signals)

    def kept(self, until: datetime | None, now: datetime) -> "Reading":
        """Return the same reading with a new wish to keep the session."""
        return replace(self, signals=(*self.signals[:-1], _keep(until, now)))

    def as_json(self) -> dict[str, Any]:
        return {
            "at": self.at.isoformat(),
            "signals": [[signal.name, signal.state.value, signal.detail] for signal in self.signals],
            "cpu": self.cpu_microseconds,
            "peers": sorted(self.peers),
            "silent_since": self.silent_since.isoformat() if self.silent_since else None,
        }

    @classmethod
    def of_json(cls, content: Mapping[str, Any]) -> "Reading":
        signals = (Signal(name, State(state), detail) for name, state, detail in content["signals"])
        at, silent = datetime.fromisoformat(content["at"]), content.get("silent_since")
        since = datetime.fromisoformat(silent) if silent else None
        return cls(at, tuple(signals), content["cpu"], frozenset(content.get("peers", ())), since)


def read(
    probe: Probe | None,
    gpu: GpuUse,
    keep_until: datetime | None,
    before: Reading | None,
    now: datetime,
    silence: timedelta = timedelta(0),
) -> Reading:
    """Return the signals. `probe` is None if the session did not answer. A connection without a keystroke or
    output for `silence` is idle; zero: never."""
    silent_since = _silent_since(probe, before, now)
    signals = (
        _connections(probe, now - silent_since if silent_since else timedelta(0), silence),
        _terminals(probe, now - before.at if before else _OFTEN),
        _cpu(probe, before, now),
        _gpu(gpu),
        _keep(keep_until, now),
    )
    if probe is None:
        return Reading(now, signals, None)
    return Reading(now, signals, probe.cpu_microseconds, probe.peers, silent_since)


def due_at(before: Reading | None, ends_at: datetime | None, limit: timedelta) -> datetime | None:
    """Return when to read a session again; None for now. Readings are rare while its end is far away."""
    if before is None:
        return None
    is_near = limit <= _NEAR_THE_END or (ends_at is not None and before.at >= ends_at - _NEAR_THE_END)
    return before.at + (_OFTEN if is_near else _RARE)


def notice(limit: timedelta) -> timedelta:
    """Return how long before its end an idle session is warned."""
    return min(NOTICE, limit / 2)


def _silent_since(probe: Probe | None, before: Reading | None, now: datetime) -> datetime | None:
    if probe is None:
        return None
    is_same = before is not None and probe.peers <= before.peers  # nobody has connected in between
    since = (before.silent_since if before and is_same else None) or now
    if probe.terminal_seconds is None:
        return since
    return max(since, now - timedelta(seconds=probe.terminal_seconds))


def _connections(probe: Probe | None, silent: timedelta, silence: timedelta) -> Signal:
    number = probe.connections if probe else None
    if number is None:
        return Signal("connections", State.UNKNOWN, "the session did not answer")
    if number == 0:
        return Signal("connections", State.IDLE, "none")
    if silence and silent >= silence:
        detail = f"{number} open, silent for {silent // timedelta(minutes=1)} min"
        return Signal("connections", State.IDLE, detail)
    return Signal("connections", State.ACTIVE, f"{number} open")


def _terminals(probe: Probe | None, span: timedelta) -> Signal:
    if probe is None:
        return Signal("terminals", State.UNKNOWN, "the session did not answer")
    if probe.terminal_seconds is None:
        return Signal("terminals", State.IDLE, "none")
    used = timedelta(seconds=probe.terminal_seconds)
    detail = f"last used {used // timedelta(minutes=1)} min ago"
    return Signal("terminals", State.ACTIVE if used <= span + _OFTEN / 2 else State.IDLE, detail)


def _cpu(probe: Probe | None, before: Reading | None, now: datetime) -> Signal:
    used = probe.cpu_microseconds if probe else None
    earlier = before.cpu_microseconds if before else None
    span = (now - before.at).total_seconds() if before else 0.0
    if used is None or earlier is None or used < earlier or span <= 0:
        return Signal("cpu", State.UNKNOWN, "measured from the next reading on")
    share = (used - earlier) / 1e6 / span
    detail = f"{share:.1%} of one CPU, idle below {BUSY_CPU:.0%}"
    return Signal("cpu", State.ACTIVE if share >= BUSY_CPU else State.IDLE, detail)


def _gpu(use: GpuUse) -> Signal:
    if use.processes is None:
        return Signal("gpu", State.UNKNOWN, "the driver did not answer")
    if use.processes == 0:
        return Signal("gpu", State.IDLE, "no process")
    processes = "1 process" if use.processes == 1 else f"{use.processes} processes"
    if use.busy is None:
        return Signal("gpu", State.UNKNOWN, f"{processes}, and no meter says whether it works")
    state = State.ACTIVE if use.busy >= BUSY_GPU else State.IDLE
    return Signal("gpu", state, f"{processes}, {use.busy:.0%} busy")


def _keep(keep_until: datetime | None, now: datetime) -> Signal:
    if keep_until is None or keep_until <= now:
        return Signal("keep", State.IDLE, "not asked")
    return Signal("keep", State.ACTIVE, f"until {keep_until:%Y-%m-%d %H:%M} UTC")
