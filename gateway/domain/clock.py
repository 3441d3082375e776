"""The current time: the wall clock, which people and NTP set, and the uptime, which always moves forward."""

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

JUMP = timedelta(seconds=10)  # between two reconciliations, slewing moves a clock by much less


@dataclass(frozen=True, slots=True)
class Moment:
    """`wall` is aware UTC. `uptime` is the time since the boot with id `boot`, including suspended time."""

    wall: datetime
    boot: str
    uptime: timedelta

    def jump_since(self, before: "Moment") -> timedelta:
        """Return by how much the wall clock was set since `before`.

        Zero after a reboot, when it is unknown.
        """
        if self.boot != before.boot:
            return timedelta()
        return (self.wall - before.wall) - (self.uptime - before.uptime)

    def shown(self, at: datetime, boot: str | None, uptime: float | None) -> datetime:
        """Return when a moment comes by the wall clock. It was planned for `at`, when the server has been up
        for `uptime` seconds since the boot `boot`. The two differ if the wall clock was set since."""
        if boot != self.boot or uptime is None:
            return at
        due = self.wall + (timedelta(seconds=uptime) - self.uptime)
        return at if abs(due - at) <= JUMP else due.replace(microsecond=0)


Clock = Callable[[], Moment]


def read() -> Moment:
    return Moment(
        wall=datetime.now(UTC),
        boot=_boot_id(),
        uptime=timedelta(seconds=time.clock_gettime(time.CLOCK_BOOTTIME)),
    )


def shared() -> Moment:
    """The time for processes on several machines, which share no uptime. No moment belongs to the boot of
    another one, so the wall clock alone decides when a lease ends: the machines need NTP."""
    return replace(read(), boot=str(uuid.uuid4()))


@cache
def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
