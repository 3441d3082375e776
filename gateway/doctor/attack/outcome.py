"""The outcome of one attempt."""

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    THROUGH = "through"  # the attack succeeded
    STOPPED = "stopped"
    UNTRIED = "untried"  # there was nothing to try, or only a process outside can judge it
    UNCLEAR = "unclear"  # the attempt itself failed to run; counts like an attack that succeeded


@dataclass(frozen=True, slots=True)
class Outcome:
    """`why` is the evidence of success, or what stopped the attack."""

    verdict: Verdict
    why: str
