"""Where a slice is put decides what still fits later; this file decides where.

A MIG slice never moves. Put anywhere it fits, slices leave a pool whose free memory is plenty and in
pieces, so the choice here is the place that costs later requests least:

    cost(place) = ∫ from now to the lease's end: Σ over profiles: demand · memory · places lost dt

"Places lost" is how many fewer instances of a profile the GPU holds with the slice than without, at
that moment: neighbours leave as their leases end, so a slice beside others that end with it blocks
nothing that they did not block, and one that outlives its neighbours pays for the half it keeps
shut. Moments count less the further off they are (e-fold in half the lease), because by then others
came and went. Ties go to the fuller GPU, then to the highest start (the lone last slice first).
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from math import exp, inf
from operator import itemgetter

from gateway.mig import Gpu, MigMode, Placement, Profile, Room, Taken

_USUAL_LEASE = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Lease(Taken):
    """A piece that is taken until `expires_at`; None: nobody knows, as with somebody else's instance."""

    expires_at: datetime | None = None
    session_id: str | None = None


@dataclass(frozen=True, slots=True)
class Fit:
    """Room for a profile: where, from when on, and the leases whose ends it waits for (none: now)."""

    gpu_uuid: str
    placement: Placement
    at: datetime
    waits_for: tuple[Lease, ...] = ()


def choose(
    gpus: Sequence[Gpu],
    taken: Sequence[Lease],
    profile_name: str,
    expires_at: datetime,
    now: datetime,
    demand: Mapping[str, float] | None = None,
) -> tuple[Gpu, Placement] | None:
    """The GPU and the placement that cost later requests least; None when the profile fits nowhere.

    `demand` says how often each profile was asked for, refused requests included; every profile
    counts once more than that. GPUs that have a fault or no MIG mode are never chosen.
    """
    cost = _Cost(profile_name, expires_at, now, demand or {})
    leases = _by_gpu(taken)
    best: tuple[float, int, int] = (inf, 0, 0)
    found = None
    for gpu in _usable(gpus):
        state = _state(gpu, leases[gpu.uuid])
        places = state.places(profile_name)
        future = cost.future(_empty(gpu), leases[gpu.uuid]) if places else []
        for placement in places:
            rank = (cost.of(placement, future), state.free, -placement.start)
            if rank < best:
                best, found = rank, (gpu, placement)
    return found


def next_fit(gpus: Sequence[Gpu], taken: Sequence[Lease], profile_name: str, now: datetime) -> Fit | None:
    """Where `profile_name` fits now or else first, were nothing new to come; None when no known end
    of a lease makes room. A lease that is over but still stands is waited for, too."""
    found = choose(gpus, taken, profile_name, now + _USUAL_LEASE, now)
    if found:
        return Fit(found[0].uuid, found[1], now)
    leases = _by_gpu(taken)
    fits = (_gpu_fit(gpu, leases[gpu.uuid], profile_name, now) for gpu in _usable(gpus))
    return min(filter(None, fits), key=lambda fit: fit.at, default=None)


def capacity(gpus: Sequence[Gpu], profile_name: str) -> int:
    """How many of the profile the usable GPUs hold when nothing stands on them."""
    return available(gpus, (), profile_name)


def available(gpus: Sequence[Gpu], taken: Sequence[Lease], profile_name: str) -> int:
    """How many more of the profile fit right now, if only that one is asked for."""
    leases = _by_gpu(taken)
    return sum(_state(gpu, leases[gpu.uuid]).count(profile_name) for gpu in _usable(gpus))


class _State:
    """One room on one kind of GPU. The same few come up all the time, so each is worked out once."""

    def __init__(self, room: Room, profiles: Mapping[str, Profile], known: dict[Room, "_State"]) -> None:
        self._room, self._profiles, self._known = room, profiles, known
        self._places: dict[str, list[Placement]] = {}
        self._after: dict[tuple[str, int, int], _State] = {}
        self.free = room.mask.bit_count()

    def places(self, name: str) -> list[Placement]:
        if name not in self._places:
            profile = self._profiles.get(name)
            self._places[name] = self._room.places(profile) if profile else []
        return self._places[name]

    def after(self, name: str, placement: Placement) -> "_State":
        """The state once `name` stands at `placement`."""
        key = (name, placement.start, placement.size)
        if key not in self._after:
            room = self._room.without(name, self._profiles.get(name), placement)
            self._after[key] = self._known.setdefault(room, _State(room, self._profiles, self._known))
        return self._after[key]

    def count(self, name: str) -> int:
        places = self.places(name)  # all of one size: filling up from the lowest wastes nothing
        return 1 + self.after(name, places[0]).count(name) if places else 0

    @cached_property
    def room_for(self) -> Mapping[str, int]:
        """The MiB that each profile, were it the only one asked for, could still be given."""
        return {name: self.count(name) * profile.memory_mib for name, profile in self._profiles.items()}


@dataclass(frozen=True, slots=True)
class _Span:
    """A GPU stays in `state` for this `share` of the lease, near moments weighing more than far ones."""

    share: float
    state: _State


class _Cost:
    """What one request's places cost, in MiB of room lost."""

    def __init__(self, name: str, expires_at: datetime, now: datetime, demand: Mapping[str, float]) -> None:
        self._name, self._now, self._demand = name, now, demand
        self._half = max(expires_at - now, timedelta(seconds=1)) / 2
        self._asked = 1.0 + sum(demand.values())
        self._rates: dict[tuple[_State, int], float] = {}

    def future(self, empty: _State, leases: Iterable[Lease]) -> list[_Span]:
        """The states that a GPU goes through until the lease's end if nothing new comes, now first."""
        spans, state, until = [], empty, _weight(2.0)
        for end, lease in sorted(((self._end(lease), lease) for lease in leases), key=itemgetter(0), reverse=True):
            if end < until:
                spans.append(_Span(until - end, state))
                until = end
            state = state.after(lease.profile, lease.placement)
        return [_Span(until, state), *reversed(spans)]

    def of(self, placement: Placement, future: Iterable[_Span]) -> float:
        # Rounded, so that equal costs stay equal however they were added up.
        return round(sum(span.share * self._rate(span.state, placement) for span in future), 6)

    def _end(self, lease: Lease) -> float:
        if lease.expires_at is None:
            return inf
        return _weight(max(0.0, (lease.expires_at - self._now) / self._half))

    def _rate(self, state: _State, placement: Placement) -> float:
        key = (state, placement.start)
        if key not in self._rates:
            self._rates[key] = self._worth(state) - self._worth(state.after(self._name, placement))
        return self._rates[key]

    def _worth(self, state: _State) -> float:
        return sum(mib * (1 + self._demand.get(name, 0)) / self._asked for name, mib in state.room_for.items())


def _weight(halves: float) -> float:
    """What the time from now on weighs, counted in halves of the lease."""
    return 1 - exp(-halves)


def _usable(gpus: Iterable[Gpu]) -> Iterator[Gpu]:
    return (gpu for gpu in gpus if gpu.mig_mode is MigMode.ENABLED and gpu.fault is None)


def _by_gpu(taken: Iterable[Lease]) -> Mapping[str, list[Lease]]:
    leases: defaultdict[str, list[Lease]] = defaultdict(list)
    for lease in taken:
        leases[lease.gpu_uuid].append(lease)
    return leases


_KINDS: dict[tuple[object, ...], _State] = {}


def _empty(gpu: Gpu) -> _State:
    """The state of such a GPU with nothing on it. Its name and those of its profiles tell the kind:
    hashing whole profiles would take a pool of 1,000 GPUs longer than all the rest."""
    kind = (gpu.name, gpu.memory_slices, gpu.compute_slices, tuple([profile.name for profile in gpu.profiles]))
    if kind not in _KINDS:
        _KINDS[kind] = _State(Room.of(gpu), {profile.name: profile for profile in gpu.profiles}, {})
    return _KINDS[kind]


def _state(gpu: Gpu, leases: Iterable[Lease]) -> _State:
    state = _empty(gpu)
    for lease in leases:
        state = state.after(lease.profile, lease.placement)
    return state


def _gpu_fit(gpu: Gpu, leases: Sequence[Lease], profile_name: str, now: datetime) -> Fit | None:
    """Ends the GPU's leases one after the other until the profile fits."""
    known = sorted((lease.expires_at, index) for index, lease in enumerate(leases) if lease.expires_at)
    standing = list(leases)
    for expires_at, index in known:
        standing.remove(leases[index])
        places = _state(gpu, standing).places(profile_name)
        if places:
            ended = [lease for lease in leases if lease not in standing]
            waits_for = _needed(gpu, standing, ended, profile_name, places[-1])
            return Fit(gpu.uuid, places[-1], max(expires_at, now), waits_for)
    return None


def _needed(
    gpu: Gpu, standing: list[Lease], ended: Iterable[Lease], profile_name: str, place: Placement
) -> tuple[Lease, ...]:
    """Those of the `ended` leases that could not have stayed."""
    needed = []
    for lease in ended:
        if place in _state(gpu, [*standing, lease]).places(profile_name):
            standing = [*standing, lease]
        else:
            needed.append(lease)
    return tuple(needed)
