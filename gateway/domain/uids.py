"""The uids that users get: one for each user, for good."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

FIRST_UID = 20000  # above every uid that Debian and Ubuntu assign to people and services
LOWEST_UID = 1000  # below are root, the services and what the distribution reserves


@dataclass(frozen=True, slots=True)
class UidRange:
    """The uids `first` … `last`. The default begins above the uids that Debian and Ubuntu give to people."""

    first: int = FIRST_UID
    last: int = 59999

    def __contains__(self, uid: int) -> bool:
        return self.first <= uid <= self.last

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"

    def unassigned(self, assigned: Collection[int]) -> Iterator[int]:
        """The uids that no user has. Those above all assigned ones come first, so that a uid that a deleted
        record had is given again as late as possible."""
        first, last = self.first, self.last
        highest = max([uid for uid in assigned if first <= uid <= last], default=first - 1)
        yield from range(highest + 1, last + 1)
        yield from (uid for uid in range(first, highest) if uid not in assigned)
