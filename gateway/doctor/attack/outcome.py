"""What came of one attempt."""

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    THROUGH = "through"  # the attack succeeded
    STOPPED = "stopped"
    UNTRIED = "untried"  # there was nothing to try, or only the outside can tell
    UNCLEAR = "unclear"  # the attempt itself broke: as bad as having got through


@dataclass(frozen=True, slots=True)
class Outcome:
    """`why` is the evidence, or what stopped it."""

    verdict: Verdict
    why: str
