"""Chooses the GPU and the placement of a new slice.

A MIG slice never moves, so its placement decides what fits later. If slices go to any place where they
fit, the free memory becomes fragmented. The choice is the placement that costs later requests least:

    cost(placement) = ∫ from now to the lease's end: Σ over profiles: √demand · lost / (1 + left) dt

`lost` is how many fewer slices of the profile the GPU holds with the new slice than without it, *at that
moment*. Neighbours leave when their leases end. A slice that ends together with its neighbours therefore
costs nothing more than they do; a slice that outlives them costs the larger placement that would become
free. `left` is how many slices of the profile the whole pool can still hold now: the last placement for a
7g is expensive even if few requests are for a 7g. Later moments weigh less (by a factor of e for each half
of the lease), because other sessions begin and end until then. Between equal costs, the fuller GPU wins,
then the highest start.

The table compares the costs that were tried. It gives the share of the gap between first-fit (0 %) and a
pool that is re-packed at will (100 %) that each closes, by accepted requests (A100 tables, mean of loads
0.7 to 1.1, two kinds of TTL, a quarter of the sessions end early):

                                                           8 GPUs  32, small requests  32, others
    best-fit                                                 24 %          46 %            44 %
    FGD: free memory that the demand cannot use              59 %          58 %            73 %
    demand · memory · lost, over the leases' ends            70 %          23 %            90 %
    … with √demand                                           72 %          72 %            93 %
    √demand · lost / (1 + left), this moment only            69 %         119 %            82 %
    … over the leases' ends, all moments alike               73 %          89 %            94 %
    … near moments weigh more (this module)                  74 %         105 %            95 %
    … with 2 + left                                          74 %          86 %            96 %

Concave counts (√placements; whether any placement is left) closed less of the gap. Spreading the load cost
9 points of accepted requests.

`python -m tests.bench.pool` measures all 360 cells with 20 seeds. The share of the gap depends on what is
counted. Accepted memory counts a large request for more than a small one:

                      by accepted requests    by accepted memory
    best-fit                  34 %                   24 %
    FGD                       58 %                   27 %
    this module               73 %                   45 %

Another measurement, over 216 cells, gave 69 % by requests and 43 % by memory for this module. By memory no
cell is below first-fit. By requests one cell is below it by more than two standard errors (-0.010 ± 0.003:
32 RTX PRO, small requests, load 1.1). In that cell the re-packed pool is at -0.029, because each 4g that is
accepted takes the place of four 1g.
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

_SHORTLIST = 64  # the future cost is computed only for this many GPUs: those with the lowest cost now
_USUAL_LEASE = timedelta(hours=1)


Spot = tuple[str, Placement]  # a GPU's UUID and a placement on it


@dataclass(frozen=True, slots=True)
class Occupied:
    """A placement that is occupied until `expires_at`; None if the end is unknown, as for an instance that
    the gateway did not make."""

    gpu_uuid: str
    profile: str
    placement: Placement
    expires_at: datetime | None = None
    session_id: str | None = None


@dataclass(frozen=True, slots=True)
class Fit:
    """Where a profile fits, from when on, and the leases that must end first (none if it fits now)."""

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
    among: Collection[Spot] | None = None,
) -> tuple[Gpu, Placement] | None:
    """Return the GPU and the placement that cost later requests least; None if the profile fits nowhere.

    `demand` is the number of requests for each profile, refused requests included; one is added for every
    profile. Only GPUs in MIG mode without a fault are chosen. A `refused` spot is never chosen, and its GPU
    only if the profile fits on no other. With `among`, only these spots are chosen.
    """
    leases = _by_gpu(taken)
    states = [(gpu, _state(gpu, leases.get(gpu.uuid, ()))) for gpu in _usable(gpus)]
    weights = _weights([state for _, state in states], demand or {})
    cost = _Cost(profile_name, expires_at, now, weights)
    allowed = None if among is None else {gpu_uuid for gpu_uuid, _ in among}
    fitting = [
        (cost.at_once(state), gpu, state)
        for gpu, state in states
        if state.places(profile_name) and (allowed is None or gpu.uuid in allowed)
    ]
    refused_gpus = {gpu_uuid for gpu_uuid, _ in refused}
    candidates = [each for each in fitting if each[1].uuid not in refused_gpus] or fitting
    best: tuple[float, int, int] = (inf, 0, 0)
    found = None
    for _, gpu, state in nsmallest(_SHORTLIST, candidates, key=_first):
        future = cost.future(_empty(gpu), leases.get(gpu.uuid, ()))
        for placement in state.places(profile_name):
            rank = (cost.of(placement, future), state.free, -placement.start)
            spot = (gpu.uuid, placement)
            if rank < best and spot not in refused and (among is None or spot in among):
                best, found = rank, (gpu, placement)
    return found


def next_fit(gpus: Sequence[Gpu], taken: Sequence[Occupied], profile_name: str, now: datetime) -> Fit | None:
    """Return where `profile_name` fits now, or where it fits first if no new session begins; None if it does
    not fit after any known end of a lease. A slice whose lease is over occupies its placement until it is
    removed."""
    found = choose(gpus, taken, profile_name, now + _USUAL_LEASE, now)
    if found:
        return Fit(found[0].uuid, found[1], now)
    leases = _by_gpu(taken)
    fits = (_gpu_fit(gpu, leases.get(gpu.uuid, []), profile_name, now) for gpu in _usable(gpus))
    return min(filter(None, fits), key=lambda fit: fit.at, default=None)


def capacity(gpus: Sequence[Gpu], profile_name: str) -> int:
    """Return how many slices of the profile the usable GPUs hold when they are empty."""
    return available(gpus, (), profile_name)


def available(gpus: Sequence[Gpu], taken: Sequence[Occupied], profile_name: str) -> int:
    """Return how many more slices of the profile fit now, if no other profile is requested."""
    leases = _by_gpu(taken)
    return sum(_state(gpu, leases.get(gpu.uuid, ())).count(profile_name) for gpu in _usable(gpus))


class _Kind:
    """GPUs with the same profiles, and the states of such GPUs that were computed so far."""

    def __init__(self, gpu: Gpu) -> None:
        self.profiles = {profile.name: profile for profile in gpu.profiles}
        self._states: dict[FreeCapacity, _State] = {}
        self.empty = self.state(FreeCapacity.of(gpu))

    def state(self, capacity: FreeCapacity) -> "_State":
        if capacity not in self._states:
            self._states[capacity] = _State(self, capacity)
        return self._states[capacity]


class _State:
    """The free capacity of a GPU, with cached results: a pool has few different states."""

    def __init__(self, kind: _Kind, capacity: FreeCapacity) -> None:
        self.kind, self.free = kind, capacity.mask.bit_count()
        self._capacity = capacity
        self._places: dict[str, list[Placement]] = {}
        self._after: dict[tuple[str, int, int], _State] = {}

    def places(self, name: str) -> list[Placement]:
        if name not in self._places:
            profile = self.kind.profiles.get(name)
            self._places[name] = self._capacity.places(profile) if profile else []
        return self._places[name]

    def after(self, name: str, placement: Placement) -> "_State":
        """The state with a slice of the profile `name` at `placement`."""
        key = (name, placement.start, placement.size)
        if key not in self._after:
            capacity = self._capacity.without(name, self.kind.profiles.get(name), placement)
            self._after[key] = self.kind.state(capacity)
        return self._after[key]

    def count(self, name: str) -> int:
        places = self.places(name)  # all of one size, so the lowest first is optimal
        return 1 + self.after(name, places[0]).count(name) if places else 0

    @cached_property
    def holds(self) -> dict[str, int]:
        """How many more slices of each profile fit, if no other profile is requested."""
        return {name: count for name in self.kind.profiles if (count := self.count(name))}


# The weight of the time that a GPU spends in a state. Near moments weigh more than far ones.
_Span = tuple[float, _State]


class _Cost:
    """The costs of the placements for one request."""

    def __init__(self, name: str, expires_at: datetime, now: datetime, weights: Mapping[str, float]) -> None:
        self._name, self._now, self._weights = name, now, weights
        self._half = max(expires_at - now, timedelta(seconds=1)) / 2
        self._worths: dict[_State, float] = {}
        self._lost: dict[_State, dict[int, float]] = {}

    def at_once(self, state: _State) -> float:
        """The cost of the cheapest placement on a GPU in `state` at this moment, without the future."""
        return min(self._losses(state).values())

    def future(self, empty: _State, leases: Iterable[Occupied]) -> list[_Span]:
        """The states of a GPU until the lease's end if no new session begins, the present state first."""
        spans, state, until = [], empty, _weight(2.0)
        for end, lease in sorted([(self._end(lease), lease) for lease in leases], key=_first, reverse=True):
            if end < until:
                spans.append((until - end, state))
                until = end
            state = state.after(lease.profile, lease.placement)
        return [(until, state), *reversed(spans)]

    def of(self, placement: Placement, future: Iterable[_Span]) -> float:
        # Rounded, because the order of a sum of floats must not make equal costs unequal.
        return round(sum([share * self._losses(state)[placement.start] for share, state in future]), 12)

    def _end(self, lease: Occupied) -> float:
        if lease.expires_at is None:
            return inf
        return _weight(max(0.0, (lease.expires_at - self._now) / self._half))

    def _losses(self, state: _State) -> dict[int, float]:
        """The loss of worth that the slice causes on a GPU in `state`, by the start of its placement."""
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
    """The worth of one placement for each profile: the fewer the pool has left, the higher."""
    left: dict[str, int] = {}
    for state, gpus in Counter(pool).items():
        for name in state.kind.profiles:
            left[name] = left.get(name, 0) + gpus * state.holds.get(name, 0)
    requests = len(left) + sum(demand.values())
    return {name: sqrt((1 + demand.get(name, 0)) / requests) / (1 + places) for name, places in left.items()}


_first = itemgetter(0)


def _weight(halves: float) -> float:
    """The weight of the time from now on, in halves of the lease."""
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
    """The state of `gpu` when it is empty. The key has only the names of the profiles: with 1,000 GPUs,
    hashing whole profiles would take longer than the rest of the choice."""
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
    """End the GPU's leases in the order of time until the profile fits."""
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
    """The `ended` leases without whose end the profile does not fit at `place`."""
    needed = []
    for lease in ended:
        if place in _state(gpu, [*standing, lease]).places(profile_name):
            standing = [*standing, lease]
        else:
            needed.append(lease)
    return tuple(needed)
