"""Where a slice is put decides what still fits later; this file decides where.

A MIG slice never moves. Put anywhere it fits, slices leave a pool whose free memory is plenty and in
pieces, so the choice is the place that costs later requests least:

    cost(place) = ∫ from now to the lease's end: Σ over profiles: √demand · lost / (1 + left) dt

`lost` is how many fewer of the profile the GPU holds with the slice than without it *at that moment*:
neighbours leave when their leases end, so a slice that ends with its neighbours shuts nothing that
they did not shut, and one that outlives them pays for the half or the GPU that it keeps from coming
free. `left` is how many the whole pool holds now: the last place for a 7g is dear though few ask for
it. Far moments weigh less (e-fold in half the lease), for by then others came and went. Ties go to
the fuller GPU, then to the highest start.

What was tried, as the share of the gap from first-fit to a pool re-packed at will that it closes, by
accepted requests (A100 tables, mean of loads 0.7 to 1.1, two kinds of TTL, a quarter leaving early):

                                                           8 GPUs  32, small requests  32, others
    best-fit                                                 24 %          46 %            44 %
    FGD: free memory that what is asked for cannot use       59 %          58 %            73 %
    demand · memory · lost, over the leases' ends            70 %          23 %            90 %
    … with √demand                                           72 %          72 %            93 %
    √demand · lost / (1 + left), this moment only            69 %         119 %            82 %
    … over the leases' ends, all moments alike               73 %          89 %            94 %
    … near moments first: the one kept                       74 %         105 %            95 %
    … with 2 + left                                          74 %          86 %            96 %

Concave counts (√places, whether any place is left) closed less, spreading the load lost 9 points of requests.
`python -m tests.bench.pool`, all 360 cells, 20 seeds: best-fit 34 %, FGD 58 %, this 73 % of the gap by
requests, and 24 %, 27 %, 45 % by memory. By memory no cell is below first-fit. By requests one is by
more than two standard errors (-0.010 ± 0.003: 32 RTX PRO, small requests, load 1.1); there the
re-packed pool is at -0.029, as each 4g that gets in costs four 1g.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from heapq import nsmallest
from math import exp, inf, sqrt
from operator import itemgetter

from gateway.domain.mig import FreeCapacity, Gpu, MigMode, Placement

_SHORTLIST = 64  # so many GPUs, the best at this moment, are looked at for their future, too
_USUAL_LEASE = timedelta(hours=1)


Spot = tuple[str, Placement]  # a GPU's UUID and a placement on it


@dataclass(frozen=True, slots=True)
class Occupied:
    """A piece that is taken until `expires_at`; None: nobody knows, as with somebody else's instance."""

    gpu_uuid: str
    profile: str
    placement: Placement
    expires_at: datetime | None = None
    session_id: str | None = None


@dataclass(frozen=True, slots=True)
class Fit:
    """FreeCapacity for a profile: where, from when on, and the leases whose ends it waits for (none: now)."""

    gpu_uuid: str
    placement: Placement
    at: datetime
    waits_for: tuple[Occupied, ...] = ()


def choose(
    gpus: Sequence[Gpu],
    taken: Sequence[Occupied],
    profile_name: str,
    expires_at: datetime,
    now: datetime,
    demand: Mapping[str, float] | None = None,
    refused: Collection[Spot] = (),
) -> tuple[Gpu, Placement] | None:
    """The GPU and the placement that cost later requests least; None when the profile fits nowhere.

    `demand` says how often each profile was asked for, refused requests included; every profile
    counts once more than that. GPUs that have a fault or no MIG mode are never chosen. A `refused` spot is
    never chosen, and its GPU only if the profile fits on no other.
    """
    leases = _by_gpu(taken)
    rooms = [(gpu, _state(gpu, leases.get(gpu.uuid, ()))) for gpu in _usable(gpus)]
    weights = _weights([state for _, state in rooms], demand or {})
    cost = _Cost(profile_name, expires_at, now, weights)
    fitting = [(cost.at_once(state), gpu, state) for gpu, state in rooms if state.places(profile_name)]
    refusing = {gpu_uuid for gpu_uuid, _ in refused}
    willing = [each for each in fitting if each[1].uuid not in refusing] or fitting
    best: tuple[float, int, int] = (inf, 0, 0)
    found = None
    for _, gpu, state in nsmallest(_SHORTLIST, willing, key=_first):
        future = cost.future(_empty(gpu), leases.get(gpu.uuid, ()))
        for placement in state.places(profile_name):
            rank = (cost.of(placement, future), state.free, -placement.start)
            if rank < best and (gpu.uuid, placement) not in refused:
                best, found = rank, (gpu, placement)
    return found


def next_fit(gpus: Sequence[Gpu], taken: Sequence[Occupied], profile_name: str, now: datetime) -> Fit | None:
    """Where `profile_name` fits now or else first, were nothing new to come; None when no known end
    of a lease makes room. A lease that is over but still stands is waited for, too."""
    found = choose(gpus, taken, profile_name, now + _USUAL_LEASE, now)
    if found:
        return Fit(found[0].uuid, found[1], now)
    leases = _by_gpu(taken)
    fits = (_gpu_fit(gpu, leases.get(gpu.uuid, []), profile_name, now) for gpu in _usable(gpus))
    return min(filter(None, fits), key=lambda fit: fit.at, default=None)


def capacity(gpus: Sequence[Gpu], profile_name: str) -> int:
    """How many of the profile the usable GPUs hold when nothing stands on them."""
    return available(gpus, (), profile_name)


def available(gpus: Sequence[Gpu], taken: Sequence[Occupied], profile_name: str) -> int:
    """How many more of the profile fit right now, if only that one is asked for."""
    leases = _by_gpu(taken)
    return sum(_state(gpu, leases.get(gpu.uuid, ())).count(profile_name) for gpu in _usable(gpus))


class _Kind:
    """GPUs that are cut alike, and their states as far as they came up."""

    def __init__(self, gpu: Gpu) -> None:
        self.profiles = {profile.name: profile for profile in gpu.profiles}
        self._states: dict[FreeCapacity, _State] = {}
        self.empty = self.state(FreeCapacity.of(gpu))

    def state(self, room: FreeCapacity) -> "_State":
        if room not in self._states:
            self._states[room] = _State(self, room)
        return self._states[room]


class _State:
    """What is left of a GPU. The same few come up all the time, so each is worked out once."""

    def __init__(self, kind: _Kind, room: FreeCapacity) -> None:
        self.kind, self.free = kind, room.mask.bit_count()
        self._room = room
        self._places: dict[str, list[Placement]] = {}
        self._after: dict[tuple[str, int, int], _State] = {}

    def places(self, name: str) -> list[Placement]:
        if name not in self._places:
            profile = self.kind.profiles.get(name)
            self._places[name] = self._room.places(profile) if profile else []
        return self._places[name]

    def after(self, name: str, placement: Placement) -> "_State":
        """The state once `name` stands at `placement`."""
        key = (name, placement.start, placement.size)
        if key not in self._after:
            room = self._room.without(name, self.kind.profiles.get(name), placement)
            self._after[key] = self.kind.state(room)
        return self._after[key]

    def count(self, name: str) -> int:
        places = self.places(name)  # all of one size: filling up from the lowest wastes nothing
        return 1 + self.after(name, places[0]).count(name) if places else 0

    @cached_property
    def holds(self) -> dict[str, int]:
        """How many more of each profile fit, were it the only one asked for."""
        return {name: count for name in self.kind.profiles if (count := self.count(name))}


# A GPU is in this state for this share of a lease, where near moments weigh more than far ones.
_Span = tuple[float, _State]


class _Cost:
    """What the places for one request cost."""

    def __init__(self, name: str, expires_at: datetime, now: datetime, weights: Mapping[str, float]) -> None:
        self._name, self._now, self._weights = name, now, weights
        self._half = max(expires_at - now, timedelta(seconds=1)) / 2
        self._worths: dict[_State, float] = {}
        self._lost: dict[_State, dict[int, float]] = {}

    def at_once(self, state: _State) -> float:
        """What the cheapest place on a GPU in `state` costs now, not looking ahead."""
        return min(self._losses(state).values())

    def future(self, empty: _State, leases: Iterable[Occupied]) -> list[_Span]:
        """The states that a GPU goes through until the lease's end if nothing new comes, now first."""
        spans, state, until = [], empty, _weight(2.0)
        for end, lease in sorted([(self._end(lease), lease) for lease in leases], key=_first, reverse=True):
            if end < until:
                spans.append((until - end, state))
                until = end
            state = state.after(lease.profile, lease.placement)
        return [(until, state), *reversed(spans)]

    def of(self, placement: Placement, future: Iterable[_Span]) -> float:
        # Rounded, so that equal costs stay equal however they were added up.
        return round(sum([share * self._losses(state)[placement.start] for share, state in future]), 12)

    def _end(self, lease: Occupied) -> float:
        if lease.expires_at is None:
            return inf
        return _weight(max(0.0, (lease.expires_at - self._now) / self._half))

    def _losses(self, state: _State) -> dict[int, float]:
        """What the slice takes from a GPU in `state` while it stands, by its start."""
        if state not in self._lost:
            worth = self._worth(state)
            self._lost[state] = {
                place.start: worth - self._worth(state.after(self._name, place))
                for place in state.places(self._name)
            }
        return self._lost[state]

    def _worth(self, state: _State) -> float:
        if state not in self._worths:
            weights = self._weights
            self._worths[state] = sum([weights[name] * count for name, count in state.holds.items()])
        return self._worths[state]


def _weights(pool: Iterable[_State], demand: Mapping[str, float]) -> Mapping[str, float]:
    """What one place for each profile is worth: the more, the fewer of them the pool has left."""
    left: dict[str, int] = {}
    for state, gpus in Counter(pool).items():
        for name in state.kind.profiles:
            left[name] = left.get(name, 0) + gpus * state.holds.get(name, 0)
    asked = len(left) + sum(demand.values())
    return {name: sqrt((1 + demand.get(name, 0)) / asked) / (1 + places) for name, places in left.items()}


_first = itemgetter(0)


def _weight(halves: float) -> float:
    """What the time from now on weighs, counted in halves of the lease."""
    return 1 - exp(-halves)


def _usable(gpus: Iterable[Gpu]) -> Iterator[Gpu]:
    return (gpu for gpu in gpus if gpu.mig_mode is MigMode.ENABLED and gpu.fault is None)


def _by_gpu(taken: Iterable[Occupied]) -> Mapping[str, list[Occupied]]:
    leases: dict[str, list[Occupied]] = {}
    for lease in taken:
        leases.setdefault(lease.gpu_uuid, []).append(lease)
    return leases


_KINDS: dict[tuple[object, ...], _Kind] = {}


def _empty(gpu: Gpu) -> _State:
    """`gpu` with nothing on it. Its name and those of its profiles tell the kind: hashing whole
    profiles would take a pool of 1,000 GPUs longer than all the rest."""
    names = tuple([profile.name for profile in gpu.profiles])
    key = (gpu.name, gpu.memory_slices, gpu.compute_slices, names)
    if key not in _KINDS:
        _KINDS[key] = _Kind(gpu)
    return _KINDS[key].empty


def _state(gpu: Gpu, leases: Iterable[Occupied]) -> _State:
    state = _empty(gpu)
    for lease in leases:
        state = state.after(lease.profile, lease.placement)
    return state


def _gpu_fit(gpu: Gpu, leases: Sequence[Occupied], profile_name: str, now: datetime) -> Fit | None:
    """Ends the GPU's leases one after the other until the profile fits."""
    known = sorted((lease.expires_at, index) for index, lease in enumerate(leases) if lease.expires_at)
    standing, ended = list(leases), []
    for expires_at, index in known:
        standing.remove(leases[index])
        ended.append(leases[index])
        places = _state(gpu, standing).places(profile_name)
        if places:
            waits_for = _needed(gpu, standing, ended, profile_name, places[-1])
            return Fit(gpu.uuid, places[-1], max(expires_at, now), waits_for)
    return None


def _needed(
    gpu: Gpu, standing: list[Occupied], ended: Iterable[Occupied], profile_name: str, place: Placement
) -> tuple[Occupied, ...]:
    """Those of the `ended` leases that could not have stayed."""
    needed = []
    for lease in ended:
        if place in _state(gpu, [*standing, lease]).places(profile_name):
            standing = [*standing, lease]
        else:
            needed.append(lease)
    return tuple(needed)
