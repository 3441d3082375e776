"""What the metrics count, and what one event adds to which counter. Pure.

The counters are rows, and the transaction that records an event adds to them. They are therefore exact over
restarts and over all processes of the gateway.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from gateway.domain.audit import Action
from gateway.domain.containers import GPU_LOST

_SUM, _ABOVE = "sum", "+Inf"

Labels = tuple[str, ...]


class Counter(StrEnum):
    """The counters; the metric of the same name says what each label means."""

    OPENS = "opens"
    ENDS = "ends"
    EXTENDS = "extends"
    WARNINGS = "warnings"
    DENIED = "denied"
    WEBHOOK_DELIVERIES = "webhook_deliveries"
    CLOSING_RETRIES = "closing_retries"
    GPUS_LOST_INSIDE = "gpus_lost_inside"
    GPU_SECONDS = "gpu_seconds"
    OPEN_SECONDS = "open_seconds"  # a histogram: one label, the bucket or `sum`
    WAIT_SECONDS = "wait_seconds"  # the same


_BUCKETS = {
    Counter.OPEN_SECONDS: (0.5, 1, 2, 3, 5, 10, 20, 30, 60, 120),
    Counter.WAIT_SECONDS: (60, 300, 900, 1800, 3600, 7200, 14400, 28800, 86400),
}


class Opening(StrEnum):
    """How an attempt to open a session ended: the label `result` of `OPENS`."""

    OPENED = "opened"
    FAILED = "failed"
    NO_CAPACITY = "no_capacity"


@dataclass(frozen=True, slots=True)
class Increment:
    """`labels` are in the order of the metric."""

    counter: Counter
    labels: Labels = ()
    by: float = 1.0


def of_event(what: str, detail: str, mig_profile: str, reason: str) -> Iterator[Increment]:
    """Return what an event adds. `mig_profile` and `reason` are the session's, empty without one."""
    match what:
        case Action.OPENED:
            yield Increment(Counter.OPENS, (mig_profile, Opening.OPENED))
        case Action.FAILED:
            yield Increment(Counter.OPENS, (mig_profile, Opening.FAILED))
        case Action.ENDED:
            yield Increment(Counter.ENDS, (reason,))
        case Action.EXTENDED:
            yield Increment(Counter.EXTENDS, ("granted",))
        case Action.WARNED:
            yield Increment(Counter.WARNINGS, ("lease", "yes" if "terminal" in detail else "no"))
        case Action.IDLE:
            yield Increment(Counter.WARNINGS, ("idle", "yes" if "terminal" in detail else "no"))
        case Action.DENIED:
            yield Increment(Counter.DENIED)
        case Action.RETRY:
            yield Increment(Counter.CLOSING_RETRIES)


def gpu_lost_inside(before: str | None, problem: str | None) -> Iterator[Increment]:
    """A session whose problem is, since this change, that its programs cannot open the GPU."""
    if str(GPU_LOST) in (problem or "") and str(GPU_LOST) not in (before or ""):
        yield Increment(Counter.GPUS_LOST_INSIDE)


def refused(mig_profile: str) -> Increment:
    """A session that was not opened because no GPU has room."""
    return Increment(Counter.OPENS, (mig_profile, Opening.NO_CAPACITY))


def delivery(result: str) -> Increment:
    """An attempt to deliver a webhook: `delivered`, `retried` or `failed`."""
    return Increment(Counter.WEBHOOK_DELIVERIES, (result,))


def refused_extension() -> Increment:
    return Increment(Counter.EXTENDS, ("refused",))


def observed(histogram: Counter, seconds: float) -> Sequence[Increment]:
    """What one observation adds to a histogram: one to its bucket, and its length to the sum."""
    bucket = next((f"{limit:g}" for limit in _BUCKETS[histogram] if seconds <= limit), _ABOVE)
    return [Increment(histogram, (bucket,)), Increment(histogram, (_SUM,), max(0.0, seconds))]


def held(mig_profile: str, user_id: str, since: datetime, until: datetime) -> Increment:
    """The seconds for which a session held its slice."""
    return Increment(Counter.GPU_SECONDS, (mig_profile, user_id), whole_seconds(since, until))


def whole_seconds(since: datetime, until: datetime) -> int:
    """Return the seconds between two times of the audit log, which shows whole seconds."""
    return max(0, round((until.replace(microsecond=0) - since.replace(microsecond=0)).total_seconds()))


def cumulated(histogram: Counter, counts: dict[str, float]) -> tuple[list[tuple[str, float]], float]:
    """Return the buckets of a histogram, each with the number of values up to its limit, and the sum."""
    total, buckets = 0.0, []
    for limit in [*(f"{limit:g}" for limit in _BUCKETS[histogram]), _ABOVE]:
        total += counts.get(limit, 0.0)
        buckets.append((limit, total))
    return buckets, counts.get(_SUM, 0.0)
