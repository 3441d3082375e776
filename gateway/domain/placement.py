"""Chooses the GPU and the placement of a new slice.

A MIG slice never moves, so its placement decides what fits later. If slices go to any place where they
fit, the free memory becomes fragmented. Each placement has a cost for later requests:

    cost(placement) = ∫ from now to the lease's end: Σ over profiles: √demand · lost / (1 + left) dt

`lost` is how many fewer slices of the profile the GPU holds with the new slice than without it, *at that
moment*. Neighbours leave when their leases end. A slice that ends together with its neighbours therefore
costs nothing more than they do; a slice that outlives them costs the larger placement that would become
free. `left` is how many slices of the profile the whole pool can still hold now: the last placement for a
7g is expensive even if few requests are for a 7g. Later moments weigh less (by a factor of e for each half
of the lease), because other sessions begin and end until then. Between equal costs, the fuller GPU wins,
then the highest start.

The four cheapest placements are then compared in simulated futures (`futures`), which also show how requests
compete for the same place. The waiting line is planned often, so its plan uses the cost alone.

Decision 4 (`docs/decisions/0004-placement.md`) has the measurements, and what else was tried.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from heapq import nsmallest
from math import exp, inf, sqrt
from operator import itemgetter
from typing import NamedTuple

from gateway.domain import futures
from gateway.domain.gpu_pool import GpuPool
from gateway.domain.gpu_state import GpuState, empty_state
from gateway.domain.mig import Gpu, Placement

_SHORTLIST = 64  # the future cost is computed only for this many GPUs: those with the lowest cost now
_CANDIDATES = 4  # the cheapest placements, which are compared in simulated futures
_SIMULATED = 8  # GPUs at most in these futures
_USUAL_LEASE = timedelta(hours=1)


Spot = tuple[str, Placement]  # a GPU's UUID and a placement on it


class Occupied(NamedTuple):
    """A placement that is occupied until `expires_at`; None if the end is unknown, as for an instance that
    the gateway did not make."""

    gpu_uuid: str
    profile: str
    placement: Placement
    expires_at: datetime | None = None
    session_id: str | None = None


def by_gpu(occupied: Iterable[Occupied]) -> Mapping[str, Sequence[Occupied]]:
    """Return the occupied placements by the UUID of their GPU."""
    found = defaultdict[str, list[Occupied]](list)
    for each in occupied:
        found[each.gpu_uuid].append(each)
    return found


@dataclass(frozen=True, slots=True)
class Fit:
    """Where a profile fits, from when on, and the leases that must end first (none if it fits now)."""

    gpu_uuid: str
    placement: Placement
    at: datetime
    waits_for: tuple[Occupied, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """Where a slice goes. `others` are GPUs of other nodes on which the profile fits as well, one of each
    node, the cheapest at this moment first."""

    gpu: Gpu
    placement: Placement
    others: tuple[Gpu, ...] = ()


def choose(
    gpus: Sequence[Gpu],
    occupied: Sequence[Occupied],
    profile_name: str,
    expires_at: datetime,
    now: datetime,
    demand: Mapping[str, float] | None = None,
    refused: Collection[Spot] = (),
    among: Collection[Spot] | None = None,
    foresight: bool = True,
    others: int = 0,
) -> Choice | None:
    """Return the GPU and the placement that cost later requests least; None if the profile fits nowhere.

    `demand` is the number of requests for each profile, refused requests included; one is added for every
    profile. Only leasable GPUs without a fault are chosen. A `refused` spot is never chosen, and its GPU
    only if the profile fits on no other. With `among`, only these spots are chosen. Without
    `foresight` the cost alone decides, which takes about 1 ms instead of 10 ms. The choice names at most
    `others` GPUs of other nodes.
    """
    request = _Request(profile_name, expires_at, now, demand or {}, refused, among)
    pool = _Pool(gpus, occupied, request)
    ranked = pool.ranked()
    if not ranked:
        return None
    best = pool.foreseen(ranked[:_CANDIDATES]) if foresight and len(ranked) > 1 else ranked[0]
    return Choice(best.gpu, best.placement, pool.others(best.gpu, others))


def next_fit(
    gpus: Sequence[Gpu], occupied: Sequence[Occupied], profile_name: str, now: datetime
) -> Fit | None:
    """Return where `profile_name` fits now, or where it fits first if no new session begins; None if it does
    not fit after any known end of a lease. A slice whose lease is over occupies its placement until it is
    removed."""
    pool = _Pool(gpus, occupied, _Request(profile_name, now + _USUAL_LEASE, now, {}))
    for cheapest in pool.ranked()[:1]:
        return Fit(cheapest.gpu.uuid, cheapest.placement, now)
    leases = by_gpu(occupied)
    fits = (_gpu_fit(gpu, leases.get(gpu.uuid, ()), profile_name, now) for gpu, _ in GpuPool.of(gpus).usable)
    return min(filter(None, fits), key=lambda fit: fit.at, default=None)


def capacity(gpus: Sequence[Gpu], profile_name: str) -> int:
    """Return how many slices of the profile the usable GPUs hold when they are empty."""
    return available(gpus, (), profile_name)


def available(gpus: Sequence[Gpu], occupied: Sequence[Occupied], profile_name: str) -> int:
    """Return how many more slices of the profile fit now, if no other profile is requested."""
    states = Counter(_states(GpuPool.of(gpus).usable, by_gpu(occupied)))
    return sum(state.count(profile_name) * number for state, number in states.items())


@dataclass(frozen=True, slots=True)
class _Request:
    """`demand` is the number of requests for each profile; `refused` and `among` are as in `choose`."""

    profile: str
    expires_at: datetime
    now: datetime
    demand: Mapping[str, float]
    refused: Collection[Spot] = ()
    among: Collection[Spot] | None = None

    def allows(self, spot: Spot) -> bool:
        return spot not in self.refused and (self.among is None or spot in self.among)

    @property
    def seconds(self) -> float:
        return max(1.0, (self.expires_at - self.now).total_seconds())

    @property
    def seed(self) -> str:
        return f"{self.profile} {self.now.isoformat()} {self.seconds}"


@dataclass(frozen=True, slots=True)
class _Ranked:
    """A placement for the request. `rank` begins with its cost."""

    rank: tuple[float, int, int]
    gpu: Gpu
    placement: Placement


class _Pool:
    """The usable GPUs with their slices, for one request. A large pool has few different states, so costs are
    computed for each state, not for each GPU."""

    def __init__(self, gpus: Iterable[Gpu], occupied: Iterable[Occupied], request: _Request) -> None:
        self._request = request
        self._leases = by_gpu(occupied)
        self._gpus = GpuPool.of(gpus).usable
        self._states = _states(self._gpus, self._leases)
        self._kinds = Counter(self._states)
        weights = _weights(self._kinds, request.demand)
        self._cost = _Cost(request.profile, request.expires_at, request.now, weights)

    def ranked(self) -> Sequence[_Ranked]:
        """Return the placements, the cheapest first. Of GPUs that are equal only the first one counts."""
        ranked, seen = [], set()
        for gpu, state in self._fitting:
            leases = self._leases.get(gpu.uuid, ())
            future = self._cost.future(empty_state(gpu), leases)
            for place in state.places(self._request.profile):
                kind = (gpu.uuid if leases else state, place)
                if kind not in seen and self._request.allows((gpu.uuid, place)):
                    seen.add(kind)
                    rank = (self._cost.of(place, future), state.free, -place.start)
                    ranked.append(_Ranked(rank, gpu, place))
        return sorted(ranked, key=lambda each: each.rank)

    def others(self, chosen: Gpu, count: int) -> tuple[Gpu, ...]:
        """Return GPUs of other nodes where the profile fits, one of each node."""
        found: dict[str | None, Gpu] = {}
        for gpu, _ in self._fitting:
            if gpu.node != chosen.node and len(found) < count:
                found.setdefault(gpu.node, gpu)
        return tuple(found.values())

    def foreseen(self, ranked: Sequence[_Ranked]) -> _Ranked:
        """Return the one of these placements that loses least in simulated futures."""
        part = self._part({each.gpu.uuid for each in ranked})
        indexes = {gpu.uuid: index for index, (gpu, _) in enumerate(part)}
        worth = max(self._cost.worth(empty_state(ranked[0].gpu)), 1e-12)
        candidates = [
            futures.Candidate(indexes[each.gpu.uuid], each.placement, each.rank[0] / worth) for each in ranked
        ]
        best = futures.best_candidate(
            [self._busy(gpu, state) for gpu, state in part],
            self._request.profile,
            self._request.seconds,
            self._request.demand,
            candidates,
            self._request.seed,
        )
        return ranked[candidates.index(best)]

    @cached_property
    def _fitting(self) -> Sequence[tuple[Gpu, GpuState]]:
        """The GPUs where the profile fits, those with the lowest cost at this moment."""
        name, among, refused = self._request.profile, self._request.among, self._request.refused
        costs = {state: self._cost.at_once(state) for state in self._kinds if state.places(name)}
        fitting = [(costs[state], index) for index, state in enumerate(self._states) if state in costs]
        if among is not None:
            allowed = {gpu_uuid for gpu_uuid, _ in among}
            fitting = [each for each in fitting if self._gpus[each[1]][0].uuid in allowed]
        if refused:
            refused_gpus = {gpu_uuid for gpu_uuid, _ in refused}
            fitting = [e for e in fitting if self._gpus[e[1]][0].uuid not in refused_gpus] or fitting
        return [(self._gpus[index][0], self._states[index]) for _, index in nsmallest(_SHORTLIST, fitting)]

    def _part(self, wanted: Collection[str]) -> Sequence[tuple[Gpu, GpuState]]:
        """The wanted GPUs, and others of all degrees of fullness, `_SIMULATED` GPUs at most."""
        part = [index for index, (gpu, _) in enumerate(self._gpus) if gpu.uuid in wanted]
        others = sorted(range(len(self._gpus)), key=[state.free for state in self._states].__getitem__)
        for index in part:
            others.remove(index)
        count = min(len(others), _SIMULATED - len(part))
        part += [others[(2 * index + 1) * len(others) // (2 * count)] for index in range(count)]
        return [(self._gpus[index][0], self._states[index]) for index in part]

    def _busy(self, gpu: Gpu, state: GpuState) -> futures.Busy:
        now = self._request.now
        leases = [
            (
                (lease.expires_at - now).total_seconds() if lease.expires_at else inf,
                (lease.profile, lease.placement),
            )
            for lease in self._leases.get(gpu.uuid, ())
        ]
        return futures.Busy(state, leases, max(1, gpu.memory_mib), _sizes(gpu))


def _sizes(gpu: Gpu) -> Mapping[str, float]:
    slice_mib = max(1, gpu.memory_mib) / gpu.memory_slices
    return {
        profile.name: profile.placements[0].size * slice_mib for profile in gpu.profiles if profile.placements
    }


# The weight of the time that a GPU spends in a state. Near moments weigh more than far ones.
_Span = tuple[float, GpuState]


class _Cost:
    """The costs of the placements for one request."""

    def __init__(self, name: str, expires_at: datetime, now: datetime, weights: Mapping[str, float]) -> None:
        self._name, self._now, self._weights = name, now, weights
        self._half = max(expires_at - now, timedelta(seconds=1)) / 2
        self._worths: dict[GpuState, float] = {}
        self._lost: dict[GpuState, dict[int, float]] = {}

    def at_once(self, state: GpuState) -> float:
        """The cost of the cheapest placement on a GPU in `state` at this moment, without the future."""
        return min(self._losses(state).values())

    def future(self, empty: GpuState, leases: Iterable[Occupied]) -> list[_Span]:
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

    def _losses(self, state: GpuState) -> dict[int, float]:
        """The loss of worth that the slice causes on a GPU in `state`, by the start of its placement."""
        if state not in self._lost:
            worth = self.worth(state)
            self._lost[state] = {
                place.start: worth - self.worth(state.after(self._name, place))
                for place in state.places(self._name)
            }
        return self._lost[state]

    def worth(self, state: GpuState) -> float:
        if state not in self._worths:
            weights = self._weights
            self._worths[state] = sum([weights[name] * count for name, count in state.holds.items()])
        return self._worths[state]


def _weights(pool: Mapping[GpuState, int], demand: Mapping[str, float]) -> Mapping[str, float]:
    """The worth of one placement for each profile: the fewer the pool has left, the higher."""
    left: dict[str, int] = {}
    for state, gpus in pool.items():
        for name in state.profiles:
            left[name] = left.get(name, 0) + gpus * state.holds.get(name, 0)
    requests = len(left) + sum(demand.values())
    return {name: sqrt((1 + demand.get(name, 0)) / requests) / (1 + places) for name, places in left.items()}


_first = itemgetter(0)


def _weight(halves: float) -> float:
    """The weight of the time from now on, in halves of the lease."""
    return 1 - exp(-halves)


def _states(
    gpus: Iterable[tuple[Gpu, GpuState]], leases: Mapping[str, Sequence[Occupied]]
) -> Sequence[GpuState]:
    """The state of each GPU. Those given are of the empty GPUs."""
    return [_after(empty, leases[gpu.uuid]) if gpu.uuid in leases else empty for gpu, empty in gpus]


def _state(gpu: Gpu, leases: Iterable[Occupied]) -> GpuState:
    return _after(empty_state(gpu), leases)


def _after(state: GpuState, leases: Iterable[Occupied]) -> GpuState:
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
