"""The sentences that users read in their terminals. Times are in the time zone of `Words`."""

from dataclasses import dataclass
from datetime import datetime, tzinfo


@dataclass(frozen=True, slots=True)
class Words:
    """`zone` None is the host's own time zone."""

    zone: tzinfo | None = None

    def time(self, at: datetime, now: datetime) -> str:
        """`18:00 KST`; on another day `2025-01-18 18:00 KST`."""
        local, today = at.astimezone(self.zone), now.astimezone(self.zone)
        return f"{local:%H:%M %Z}" if local.date() == today.date() else self.date(at)

    def date(self, at: datetime) -> str:
        """`2025-01-17 18:00 KST`, for a text that is read at any time."""
        return f"{at.astimezone(self.zone):%Y-%m-%d %H:%M %Z}"

    def lease(self, ends: datetime, latest_end: datetime | None) -> str:
        """The line of the message of the day."""
        if latest_end is None:
            return self.date(ends)
        return f"{self.date(ends)}; can be extended to {self.date(latest_end)}"
