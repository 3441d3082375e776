"""What time it is: on the wall clock, which people and NTP set, and since the boot, which nobody can."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

JUMP = timedelta(seconds=10)  # slewing moves a clock by far less between two looks


@dataclass(frozen=True, slots=True)
class Moment:
    """`wall` is aware UTC; `uptime` is since the boot of id `boot`, suspended time included."""

    wall: datetime
    boot: str
    uptime: timedelta

    def jump_since(self, before: "Moment") -> timedelta:
        """How far the wall clock was set in between; zero over a reboot, where nobody can tell."""
        if self.boot != before.boot:
            return timedelta()
        return (self.wall - before.wall) - (self.uptime - before.uptime)


Clock = Callable[[], Moment]


def read() -> Moment:
    return Moment(
        wall=datetime.now(UTC),
        boot=_boot_id(),
        uptime=timedelta(seconds=time.clock_gettime(time.CLOCK_BOOTTIME)),
    )


@cache
def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
