"""When each placement of one GPU is free: the intervals between leases and reservations. Pure.

Times are whole seconds since the epoch. A state of a GPU is a number with one bit for each slice that stands
on it, so that a timeline of many reservations costs little.
"""

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from math import inf
from operator import and_
from typing import NamedTuple

from gateway.domain.mig import FreeCapacity, Gpu, MigPolicy, Placement


class Slice(NamedTuple):
    """A slice of a MIG profile at a placement. A `borrowed` one is an instance that stands there already."""

    profile: str
    placement: Placement
    is_borrowed: bool = False


class Hold(NamedTuple):
    """A slice that is in use from `begin` until `end`, infinity if the end is unknown. Nothing is planned
    before `end`; what was planned before stays if it begins at `sure_end` or later."""

    slice: Slice
    begin: float
    end: float
    sure_end: float


class Gap(NamedTuple):
    """A slice that can be had from `begin` until `end`."""

    begin: float
    end: float
    slice: Slice

    @property
    def length(self) -> float:
        return self.end - self.begin


_TWICE = 1  # the bit of a state in which one slice is held twice


class _Kind:
    """GPUs with the same profiles, and what was computed about their states. The other bits of a state stand
    for slices, in the order in which they were first seen."""

    def __init__(self, gpu: Gpu) -> None:
        self._profiles = {profile.name: profile for profile in gpu.profiles}
        self._empty = FreeCapacity.of(gpu) if gpu.profiles else None
        self._slices: list[Slice] = []
        self._bits: dict[Slice, int] = {}
        self._borrowed = 0
        self._free: dict[str, dict[int, int]] = {name: {} for name in self._profiles}
        self._consistent: dict[int, bool] = {}

    def bit(self, slice_: Slice) -> int:
        if slice_ not in self._bits:
            self._slices.append(slice_)
            self._bits[slice_] = 1 << len(self._slices)
            self._borrowed |= self._bits[slice_] if slice_.is_borrowed else 0
        return self._bits[slice_]

    def made(self, state: int) -> int:
        """The slices of `state` that are not borrowed."""
        return state & ~self._borrowed

    def slice(self, bit: int) -> Slice:
        return self._slices[bit.bit_length() - 2]

    def slices(self, state: int) -> list[Slice]:
        return [self.slice(bit) for bit in _bits(state & ~_TWICE)]

    def known_free(self, profile: str) -> Mapping[int, int]:
        """What `free` has computed for the profile so far, by the state."""
        return self._free.setdefault(profile, {})

    def free(self, state: int, profile: str) -> int:
        """The new slices of the profile that fit beside those of `state`, as bits."""
        known = self._free.setdefault(profile, {})
        if state not in known:
            known[state] = self._fitting(state, profile)
        return known[state]

    def is_consistent(self, state: int) -> bool:
        """Whether the slices of `state` can stand side by side."""
        if state not in self._consistent:
            self._consistent[state] = self._fits_together(state)
        return self._consistent[state]

    def _fitting(self, state: int, name: str) -> int:
        profile, capacity = self._profiles.get(name), self._capacity(self.slices(state))
        if profile is None or capacity is None:
            return 0
        return sum(self.bit(Slice(name, place)) for place in capacity.places(profile))

    def _fits_together(self, state: int) -> bool:
        slices = self.slices(state)
        for index, slice_ in enumerate(slices):
            profile, capacity = self._profiles.get(slice_.profile), self._capacity(slices[:index])
            if profile and capacity and slice_.placement not in capacity.places(profile):
                return False
        return not state & _TWICE

    def _capacity(self, slices: Iterable[Slice]) -> FreeCapacity | None:
        capacity = self._empty
        for name, placement, _ in slices:
            if capacity is not None:
                capacity = capacity.without(name, self._profiles.get(name), placement)
        return capacity


_KINDS: dict[tuple[object, ...], _Kind] = {}


def _kind(gpu: Gpu) -> _Kind:
    key = gpu.kind
    if key not in _KINDS:
        _KINDS[key] = _Kind(gpu)
    return _KINDS[key]


@dataclass(frozen=True, slots=True)
class OpenGpu:
    """A GPU on which sessions may begin, until `closes_at`. `standing` are the instances that the gateway
    neither makes nor destroys."""

    gpu: Gpu
    policy: MigPolicy
    standing: Sequence[Slice] = ()
    closes_at: float = inf


class _Coded(NamedTuple):
    """A hold, its slice as a bit."""

    bit: int
    begin: float
    end: float
    sure_end: float


class Timeline:
    """The holds of one GPU from `now` on."""

    def __init__(self, open_gpu: OpenGpu, now: float, leases: Collection[Hold]) -> None:
        self._open = open_gpu
        self._kind = _kind(open_gpu.gpu)
        self._now = now
        self._leases = [self._coded(hold) for hold in leases]
        self._reservations: dict[str, _Coded] = {}
        self._base = sum({self._kind.bit(Slice(name, place)) for name, place, _ in open_gpu.standing})
        self._is_dynamic = open_gpu.policy is MigPolicy.DYNAMIC and not any(
            hold.slice.is_borrowed for hold in leases
        )
        self._idle: dict[str, int] = {}
        if open_gpu.policy is not MigPolicy.DYNAMIC:
            for name, place, _ in open_gpu.standing:
                bit = self._kind.bit(Slice(name, place, True))
                self._idle[name] = self._idle.get(name, 0) | bit
        self._segments: list[tuple[float, int]] | None = None
        self._gaps: dict[str, list[Gap]] = {}

    @property
    def uuid(self) -> str:
        return self._open.gpu.uuid

    @property
    def is_promised(self) -> bool:
        """Whether the GPU has reservations, or closes."""
        return bool(self._reservations) or self._open.closes_at < inf

    def reserve(self, name: str, hold: Hold) -> None:
        self._reservations[name] = self._coded(hold)
        self._forget()

    def release(self, name: str) -> None:
        del self._reservations[name]
        self._forget()

    def gaps(self, profile: str) -> list[Gap]:
        """Return when slices of the profile can be had beside all leases and reservations; earliest first."""
        if profile not in self._gaps:
            self._gaps[profile] = self._find_gaps(profile, self._sweep())
        return self._gaps[profile]

    def gaps_without(self, name: str, profile: str) -> list[Gap]:
        """As `gaps`, without the reservation `name`."""
        others = [hold for key, hold in self._reservations.items() if key != name]
        return self._find_gaps(profile, self._swept([*self._leases, *others]))

    def count(self, profile: str, until: float) -> int:
        """Return how many slices of the profile can be had side by side from now until then."""
        if until > self._open.closes_at:
            return 0
        states, found = {state for begin, state in self._sweep() if begin < until}, 0
        while free := reduce(and_, (self._free(state, profile) for state in states)):
            states, found = {state | free & -free for state in states}, found + 1
        return found

    def can_shift(self, name: str, profile: str) -> bool:
        """Return False if the reservation certainly cannot begin within its own length before its begin."""
        begin = self._reservations[name].begin
        segments = self._sweep()
        index = bisect_left(segments, (begin, 0)) - 1
        return index >= 0 and bool(self._free(segments[index][1], profile))

    def fits(self, hold: Hold) -> bool:
        """Whether a hold that was planned before still fits beside all leases and reservations."""
        gaps = self._find_gaps(hold.slice.profile, self._sure_sweep())
        return any(
            gap.slice == hold.slice and gap.begin <= hold.begin and hold.sure_end <= gap.end for gap in gaps
        )

    def has_conflicts(self) -> bool:
        """Whether a reservation overlaps another hold, or time at which the GPU is closed."""
        if any(each.sure_end > self._open.closes_at for each in self._reservations.values()):
            return True
        reserved = {each.bit for each in self._reservations.values()}
        concerned = [state for _, state in self._sure_sweep() if any(state & bit for bit in reserved)]
        return any(not self._is_consistent(state) for state in concerned)

    def free_until(self, hold: Hold) -> float:
        """Return until when a lease that ends with `hold` can be prolonged beside all reservations."""
        ends = [
            gap.end
            for gap in self.gaps(hold.slice.profile)
            if gap.slice == hold.slice and gap.begin <= hold.end < gap.end
        ]
        return max(ends, default=hold.end)

    def _coded(self, hold: Hold) -> "_Coded":
        return _Coded(self._kind.bit(hold.slice), max(hold.begin, self._now), hold.end, hold.sure_end)

    def _forget(self) -> None:
        self._segments = None
        self._gaps = {}

    def _sweep(self) -> list[tuple[float, int]]:
        if self._segments is None:
            self._segments = self._swept([*self._leases, *self._reservations.values()])
        return self._segments

    def _sure_sweep(self) -> list[tuple[float, int]]:
        holds = [*self._leases, *self._reservations.values()]
        return self._swept([each._replace(end=each.sure_end) for each in holds])

    def _swept(self, holds: Iterable["_Coded"]) -> list[tuple[float, int]]:
        """The states of the GPU, each with its begin; the last one lasts for ever."""
        changes: dict[float, list[tuple[int, int]]] = {self._now: []}
        for bit, begin, end, _ in holds:
            if end > begin:
                changes.setdefault(begin, []).append((bit, 1))
                changes.setdefault(end, []).append((bit, -1))
        counts: dict[int, int] = {}
        segments, state, twice = [], 0, 0
        for at in sorted(changes):
            for bit, step in changes[at]:
                counts[bit] = count = counts.get(bit, 0) + step
                state = state | bit if count else state & ~bit
                if count + (step < 0) > 1:
                    twice += step
            segments.append((at, state | _TWICE if twice else state))
        return segments

    def _find_gaps(self, profile: str, segments: Sequence[tuple[float, int]]) -> list[Gap]:
        began: dict[int, float] = {}
        found: list[tuple[float, float, int]] = []
        known = self._kind.known_free(profile) if self._is_dynamic else {}  # fast, for long lines
        before, closes_at = 0, self._open.closes_at
        for at, state in segments:
            if at >= closes_at:
                break
            free = known.get(state | self._base)
            if free is None:
                free = self._free(state, profile)
            if free == before:
                continue
            for bit in _bits(before & ~free):
                found.append((began[bit], at, bit))
            for bit in _bits(free & ~before):
                began[bit] = at
            before = free
        found += [(began[bit], self._open.closes_at, bit) for bit in _bits(before)]
        return [Gap(begin, end, self._kind.slice(bit)) for begin, end, bit in sorted(found)]

    def _free(self, state: int, profile: str) -> int:
        """The slices of the profile that can be had beside those of `state`: idle instances first of all."""
        if self._is_dynamic:
            return self._kind.free(state & ~_TWICE | self._base, profile)
        idle = self._idle.get(profile, 0) & ~state
        if self._open.policy is MigPolicy.STATIC:
            return idle
        return idle | self._kind.free(self._kind.made(state) & ~_TWICE | self._base, profile)

    def _is_consistent(self, state: int) -> bool:
        return self._kind.is_consistent(self._kind.made(state) | self._base)


def _bits(number: int) -> Iterator[int]:
    while number:
        lowest = number & -number
        yield lowest
        number ^= lowest
