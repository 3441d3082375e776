"""The reservations of the waiting line beside the leases, on the GPUs where sessions may begin. Pure."""

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from math import inf

from gateway.domain.gpu_pool import GpuPool
from gateway.domain.placement import Occupied, choose
from gateway.domain.timeline import Gap, Hold, OpenGpu, Timeline
from gateway.domain.waiting import TURNOVER, Lease, Reservation, Waiter


class Book:
    """The timelines of all GPUs, with the reservations that were made so far."""

    def __init__(
        self,
        gpus: Sequence[OpenGpu],
        leases: Collection[Lease],
        now: datetime,
        demand: Mapping[str, float],
    ) -> None:
        self.reservations: dict[str, Reservation] = {}
        self._gpus, self._leases, self._demand = gpus, leases, demand
        self._now, self._seconds = now, int(now.timestamp())
        held: dict[str, list[Hold]] = {}
        for lease in leases:
            held.setdefault(lease.gpu, []).append(self._held(lease))
        self._timelines = {
            each.gpu.uuid: Timeline(each, self._seconds, held.get(each.gpu.uuid, ())) for each in gpus
        }
        self._waiters: dict[str, Waiter] = {}
        self._earliest: dict[str, _Earliest] = {}

    def plan(self, line: Sequence[Waiter], raised: Waiter | None = None) -> None:
        """Give each request of the line, in this order, the best reservation. The request `raised` comes
        before those behind it. One that it displaces comes before those behind that one, and so on."""
        pending = self.restore(line, above=raised)
        if raised is not None:
            self.improve(raised)
        for waiter in pending:
            if not self.keep(waiter) and waiter.is_overtaken_by(raised):
                self.improve(waiter)
        for waiter in line:
            self.improve(waiter)

    def restore(self, line: Iterable[Waiter], above: Waiter | None) -> list[Waiter]:
        """Enter the reservations that the requests hold. Return the requests whose reservation is in doubt:
        those behind `above`, and those on a GPU where not all fit any more."""
        sure = [each for each in line if not each.is_overtaken_by(above)]
        for waiter in sure:
            if waiter.reservation and waiter.reservation.gpu in self._timelines:
                self._enter(waiter, waiter.reservation)
        for uuid in [uuid for uuid, timeline in self._timelines.items() if timeline.has_conflicts()]:
            for name in [name for name, each in self.reservations.items() if each.gpu == uuid]:
                self._leave(name)
        return [each for each in line if each.reservation and each.id not in self.reservations]

    def keep(self, waiter: Waiter) -> bool:
        """Enter the reservation of the request. Return False if something ahead of it is in its slice; one on
        a GPU that is not there any more is dropped."""
        reservation = waiter.reservation
        timeline = self._timelines.get(reservation.gpu) if reservation else None
        if reservation is None or timeline is None:
            return True
        if not timeline.fits(self._hold(waiter, reservation)):
            return False
        self._enter(waiter, reservation)
        return True

    def improve(self, waiter: Waiter) -> None:
        """Give the request an earlier reservation than it has, if there is one."""
        before = self.reservations.get(waiter.id)
        limit = before.start.timestamp() if before else waiter.until.timestamp() + 1
        if limit <= self._seconds:
            return
        begin = self._earliest_of(waiter.profile).begin(_length(waiter), limit)
        if before and min(begin, limit) > self._seconds:
            begin = min(begin, self._shifted(waiter, before))
        if begin < limit:
            self._move(waiter, begin)

    def free_now(self, profile: str, lease: timedelta) -> Iterator[tuple[str, Gap]]:
        length = (lease + TURNOVER).total_seconds()
        for uuid, timeline in self._timelines.items():
            for gap in timeline.gaps(profile):
                if gap.begin <= self._seconds and gap.length >= length:
                    yield uuid, gap

    def count_now(self, profile: str, lease: timedelta) -> int:
        """Return how many sessions of the profile can begin now side by side."""
        until = self._seconds + (lease + TURNOVER).total_seconds()
        return sum(timeline.count(profile, until) for timeline in self._timelines.values())

    def earliest(self, profile: str, lease: timedelta) -> Reservation | None:
        """Return where a session that is behind everybody in line could begin first; None if that is
        unknown. Between equal begins, the highest placement wins."""
        length = (lease + TURNOVER).total_seconds()
        free = [
            (max(gap.begin, self._seconds), uuid, gap.slice)
            for uuid, timeline in self._timelines.items()
            for gap in timeline.gaps(profile)
            if gap.length >= length
        ]
        if not free:
            return None
        begin, uuid, slice_ = min(free, key=lambda each: (each[0], -each[2].placement.start, each[1]))
        return Reservation(uuid, slice_, max(_time(begin), self._now))

    def latest_ends(
        self, reservations: Mapping[str, Reservation]
    ) -> tuple[Mapping[str, datetime], Mapping[str, str | None]]:
        """Return the latest end of each lease that ends before a reservation or a maintenance, and the first
        request that waits for it."""
        ends: dict[str, datetime] = {}
        waiting: dict[str, str | None] = {}
        begins = _begins(reservations)
        for lease in self._leases:
            timeline = self._timelines.get(lease.gpu)
            until = timeline.free_until(self._held(lease)) if timeline and timeline.is_promised else inf
            if until < inf:
                ends[lease.session_id] = max(lease.ends, _time(until) - TURNOVER)
                waiting[lease.session_id] = _last_before(begins.get(lease.gpu, ()), _time(until))
        return ends, waiting

    def _held(self, lease: Lease) -> Hold:
        """A lease that is over holds its slice until the session is closed."""
        ends, turnover = lease.ends.timestamp(), TURNOVER.total_seconds()
        over = self._seconds + turnover if ends + turnover <= self._seconds else ends + turnover
        return Hold(lease.slice, self._seconds, over, max(ends, self._seconds + 1))

    def _hold(self, waiter: Waiter, reservation: Reservation) -> Hold:
        """A session that opens a little late uses up the turnover, and delays nobody."""
        start = reservation.start.timestamp()
        begin, end = max(start, self._seconds), max(start, self._seconds) + _length(waiter)
        return Hold(reservation.slice, begin, end, end - min(begin - start, TURNOVER.total_seconds()))

    def _enter(self, waiter: Waiter, reservation: Reservation) -> None:
        self.reservations[waiter.id] = reservation
        self._waiters[waiter.id] = waiter
        self._timelines[reservation.gpu].reserve(waiter.id, self._hold(waiter, reservation))
        for earliest in self._earliest.values():
            earliest.reserved(reservation.gpu)

    def _leave(self, name: str) -> None:
        reservation = self.reservations.pop(name)
        self._timelines[reservation.gpu].release(name)
        for earliest in self._earliest.values():
            earliest.freed(reservation.gpu)

    def _earliest_of(self, profile: str) -> "_Earliest":
        if profile not in self._earliest:
            self._earliest[profile] = _Earliest(profile, self._timelines)
        return self._earliest[profile]

    def _shifted(self, waiter: Waiter, before: Reservation) -> float:
        """The earliest begin that overlaps the time of the request's own reservation."""
        timeline = self._timelines[before.gpu]
        if not timeline.can_shift(waiter.id, waiter.profile):
            return inf
        gaps = timeline.gaps_without(waiter.id, waiter.profile)
        return min((gap.begin for gap in gaps if gap.length >= _length(waiter)), default=inf)

    def _move(self, waiter: Waiter, begin: float) -> None:
        if waiter.id in self.reservations:
            self._leave(waiter.id)
        end = begin + _length(waiter)
        found = [
            (gap.length, -gap.slice.placement.start, uuid, gap)
            for uuid, timeline in self._timelines.items()
            for gap in timeline.gaps(waiter.profile)
            if gap.begin <= begin and end <= gap.end
        ]
        *_, uuid, gap = min(found)  # the shortest gap, then the highest placement
        if begin <= self._seconds:
            uuid, gap = self._cheapest(waiter, [(uuid, gap) for *_, uuid, gap in found]) or (uuid, gap)
        start = self._now if begin <= self._seconds else _time(begin)
        self._enter(waiter, Reservation(uuid, gap.slice, start.replace(microsecond=0)))

    def _cheapest(self, waiter: Waiter, free: Sequence[tuple[str, Gap]]) -> tuple[str, Gap] | None:
        """The slice that costs later requests least, an idle instance first."""
        idle = [(uuid, gap) for uuid, gap in free if gap.slice.is_borrowed]
        if idle or len(free) == 1:
            return (idle or free)[0]
        chosen = choose(
            self._pool,
            [*self._occupied, *self._begun()],
            waiter.profile,
            self._now + waiter.lease,
            self._now,
            self._demand,
            among={(uuid, gap.slice.placement) for uuid, gap in free},
            foresight=False,
        )
        if chosen is None:
            return None
        spot = (chosen.gpu.uuid, chosen.placement)
        return next((uuid, gap) for uuid, gap in free if (uuid, gap.slice.placement) == spot)

    @cached_property
    def _pool(self) -> GpuPool:
        return GpuPool(each.gpu for each in self._gpus)

    @cached_property
    def _occupied(self) -> Sequence[Occupied]:
        return list(_occupied(self._gpus, self._leases))

    def _begun(self) -> Iterator[Occupied]:
        """The slices of requests that begin now."""
        for name, each in self.reservations.items():
            if each.start <= self._now:
                ends = self._now + self._waiters[name].lease
                yield Occupied(each.gpu, each.slice.profile, each.slice.placement, ends, name)


class _Earliest:
    """The earliest begin of slices of one profile on all GPUs, by the length that is needed."""

    def __init__(self, profile: str, timelines: Mapping[str, Timeline]) -> None:
        self._profile = profile
        self._timelines = timelines
        self._steps: dict[str, list[tuple[float, float]]] = {}
        self._begins: list[float] = []
        self._lengths: list[float] = []
        self._freed: set[str] = set(timelines)  # the GPUs with more gaps than those in `_steps`
        self._reserved: set[str] = set()  # the GPUs with fewer

    def begin(self, length: float, limit: float) -> float:
        """Return the earliest begin of a gap of at least `length` seconds, if it is before `limit`, else
        infinity."""
        if self._freed:
            self._update()
        begin = self._found(length)
        if begin < limit and self._reserved:  # the gap may be a reservation's by now
            self._update()
            begin = self._found(length)
        return begin if begin < limit else inf

    def freed(self, uuid: str) -> None:
        self._freed.add(uuid)

    def reserved(self, uuid: str) -> None:
        self._reserved.add(uuid)

    def _found(self, length: float) -> float:
        index = bisect_left(self._lengths, length)
        return self._begins[index] if index < len(self._begins) else inf

    def _update(self) -> None:
        for uuid in self._freed | self._reserved:
            gaps = self._timelines[uuid].gaps(self._profile)
            self._steps[uuid] = _rising([(begin, end - begin) for begin, end, _ in gaps])
        self._freed, self._reserved = set(), set()
        rising = _rising(sorted([step for steps in self._steps.values() for step in steps]))
        self._begins = [begin for begin, _ in rising]
        self._lengths = [length for _, length in rising]


def _rising(steps: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those of the steps, sorted by their begin, that are longer than all before them."""
    found: list[tuple[float, float]] = []
    for begin, length in steps:
        if not found or length > found[-1][1]:
            if found and found[-1][0] == begin:
                found.pop()
            found.append((begin, length))
    return found


def _length(waiter: Waiter) -> float:
    return (waiter.lease + TURNOVER).total_seconds()


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _begins(reservations: Mapping[str, Reservation]) -> Mapping[str, list[tuple[datetime, str]]]:
    """The begins of the reservations on each GPU."""
    begins: dict[str, list[tuple[datetime, str]]] = {}
    for name, each in reservations.items():
        begins.setdefault(each.gpu, []).append((each.start, name))
    return begins


def _last_before(begins: Iterable[tuple[datetime, str]], at: datetime) -> str | None:
    """The request that begins at that moment, or that should have begun before it."""
    return max([(start, name) for start, name in begins if start <= at], default=(at, None))[1]


def _occupied(gpus: Iterable[OpenGpu], leases: Iterable[Lease]) -> Iterator[Occupied]:
    for each in gpus:
        for name, placement, _ in each.standing:
            yield Occupied(each.gpu.uuid, name, placement)
    for lease in leases:
        if not lease.slice.is_borrowed:
            yield Occupied(
                lease.gpu, lease.slice.profile, lease.slice.placement, lease.ends, lease.session_id
            )
