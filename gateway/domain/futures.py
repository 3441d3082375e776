"""Compares placements by what later requests get in simulated futures. Pure.

A future is a series of random requests: for profiles by their demand, at a rate that nearly fills the pool,
with leases as long as those of the live sessions. A live session ends with its lease. Every candidate meets
the same futures. A candidate loses the requests that the pool must refuse in them, weighted by memory; near
requests weigh more than far ones. The random numbers depend on the request only, so that the same input gives
the same result.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from math import exp, inf, log
from random import Random

from gateway.domain.gpu_state import GpuState
from gateway.domain.mig import Placement

_REQUESTS = 2500  # simulated for one decision: about 10 ms of a processor
_FUTURES = range(8, 401)  # the fewest and the most
_LOAD = 0.95  # of the pool's memory, if every request is granted
_HORIZON, _FADE = 0.7, 0.35  # in mean leases: how long a future is, and when requests weigh 1/e
_USUAL_LEASE = 3600.0  # seconds
_TIE = 1e-6  # decides only between equal costs
_BASE = 0.5  # of the mean request's memory, which every refused request counts for besides its own
_PRIOR = 2.0  # the weight of the cost that is known without futures

_Slice = tuple[str, Placement]  # the profile and the placement
_Arrival = tuple[float, int, float, float]  # when, the profile's index, when its lease ends, its weight
_End = tuple[float, int, _Slice]  # when, the GPU's index, the slice
_NEVER: _End = (inf, 0, ("", Placement(0, 0)))


@dataclass(frozen=True, slots=True)
class Busy:
    """A GPU and its slices, each with the seconds until it is free; infinity if unknown. `sizes` is the
    memory of each profile, in MiB."""

    state: GpuState
    leases: Sequence[tuple[float, _Slice]]
    memory_mib: int
    sizes: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A placement on the GPU at this index. `cost` is a share of the worth of an empty GPU."""

    gpu: int
    placement: Placement
    cost: float


def best_candidate(
    pool: Sequence[Busy],
    profile: str,
    lease_seconds: float,
    demand: Mapping[str, float],
    candidates: Sequence[Candidate],
    seed: str,
) -> Candidate:
    """Return the candidate that loses least. `demand` counts the requests for each profile; one is added for
    every profile. Between equal losses the first candidate wins."""
    world = _World(pool, lease_seconds, demand)
    starts = [_Start(world, pool, profile, lease_seconds, each) for each in candidates]
    count = int(_REQUESTS / (len(starts) * world.requests_a_future))
    count = min(max(count, _FUTURES.start), _FUTURES.stop - 1)
    random, lost = Random(seed), [0.0] * len(starts)
    for _ in range(count):
        future = world.future(random.random)
        for index, start in enumerate(starts):
            lost[index] += start.lost(future)
    ranks = [
        round(total / count / world.mean_size + _PRIOR * each.cost, 9)
        for total, each in zip(lost, candidates, strict=True)
    ]
    return candidates[ranks.index(min(ranks))]


class _World:
    """What all futures of a decision have in common. Times are in seconds from now, sizes in MiB."""

    def __init__(self, pool: Sequence[Busy], lease_seconds: float, demand: Mapping[str, float]) -> None:
        sizes = {name: size for busy in pool for name, size in busy.sizes.items()}
        self.names, self.sizes = list(sizes), list(sizes.values())
        counts = [1 + demand.get(name, 0) for name in self.names]
        self.shares = [count / sum(counts) for count in counts]
        self.mean_size = sum(share * size for share, size in zip(self.shares, self.sizes, strict=True))
        ends = [max(0.0, end) for busy in pool for end, _ in busy.leases if end < inf]
        self.mean_lease = (_USUAL_LEASE + lease_seconds + sum(ends)) / (2 + len(ends))
        memory = sum(busy.memory_mib for busy in pool)
        self.gap = self.mean_lease * self.mean_size / (_LOAD * memory)
        self.horizon = _HORIZON * self.mean_lease
        self.weights = _weights(self, pool)
        self._nodes: dict[GpuState, _Node] = {}
        self._worths: dict[GpuState, float] = {}

    @property
    def requests_a_future(self) -> float:
        return self.horizon / self.gap

    def node(self, state: GpuState) -> "_Node":
        node = self._nodes.get(state)
        if node is None:
            node = self._nodes[state] = _Node(self, state)
        return node

    def worth(self, state: GpuState) -> float:
        worth = self._worths.get(state)
        if worth is None:
            weights = self.weights
            worth = sum([weights[name] * count for name, count in state.holds.items() if name in weights])
            self._worths[state] = worth
        return worth

    def future(self, random: Callable[[], float]) -> list[_Arrival]:
        arrivals, fade = [], _FADE * self.mean_lease
        now = -self.gap * log(1 - random())
        while now < self.horizon:
            profile = self._profile(random())
            end = now - self.mean_lease * log(1 - random())
            weight = self.sizes[profile] + _BASE * self.mean_size
            arrivals.append((now, profile, end, weight * exp(-now / fade)))
            now -= self.gap * log(1 - random())
        return arrivals

    def _profile(self, point: float) -> int:
        for index, share in enumerate(self.shares):
            point -= share
            if point < 0:
                return index
        return len(self.shares) - 1


def _weights(world: _World, pool: Sequence[Busy]) -> dict[str, float]:
    """The worth of one free placement for each profile, to the requests of a future."""
    left = [sum(busy.state.holds.get(name, 0) for busy in pool) for name in world.names]
    parts = zip(world.names, world.shares, world.sizes, left, strict=True)
    return {name: share**0.75 * size / (1 + places) ** 0.5 for name, share, size, places in parts}


class _Node:
    """A state of a GPU in a future. `costs` has the cost of each profile's cheapest placement; infinity if it
    does not fit."""

    __slots__ = ("_after", "_before", "_world", "costs", "slices", "state")

    def __init__(self, world: _World, state: GpuState) -> None:
        self._world, self.state = world, state
        self._after: dict[int, _Node] = {}
        self._before: dict[_Slice, _Node] = {}
        cheapest = [self._cheapest(name) for name in world.names]
        self.costs = [cost for cost, _ in cheapest]
        self.slices = [(name, spot) for name, (_, spot) in zip(world.names, cheapest, strict=True)]

    def after(self, profile: int) -> "_Node":
        if profile not in self._after:
            self._after[profile] = self._world.node(self.state.after(*self.slices[profile]))
        return self._after[profile]

    def before(self, slice_: _Slice) -> "_Node":
        if slice_ not in self._before:
            self._before[slice_] = self._world.node(self.state.before(*slice_))
        return self._before[slice_]

    def _cheapest(self, name: str) -> tuple[float, Placement]:
        """Between equal costs, the fuller GPU wins, then the highest start."""
        worth = self._world.worth
        before = worth(self.state) + _TIE * self.state.free
        costs = [(before - worth(self.state.after(name, place)), place) for place in self.state.places(name)]
        return min(costs, key=lambda each: (each[0], -each[1].start), default=(inf, Placement(0, 0)))


class _Start:
    """The pool with a candidate's slice, from which each future begins."""

    def __init__(
        self, world: _World, pool: Sequence[Busy], profile: str, lease_seconds: float, chosen: Candidate
    ) -> None:
        states = [busy.state for busy in pool]
        states[chosen.gpu] = states[chosen.gpu].after(profile, chosen.placement)
        leases = [(end, gpu, slice_) for gpu, busy in enumerate(pool) for end, slice_ in busy.leases]
        leases.append((lease_seconds, chosen.gpu, (profile, chosen.placement)))
        self._nodes = [world.node(state) for state in states]
        self._horizon = world.horizon
        self._ends = sorted(each for each in leases if each[0] < world.horizon) + [_NEVER]

    def lost(self, future: Sequence[_Arrival]) -> float:
        """Return the weighted memory of the requests that are refused. The loop runs some thousand times for
        a decision, so it is written for speed."""
        nodes, ends, horizon = self._nodes.copy(), self._ends.copy(), self._horizon
        costs = [node.costs for node in nodes]
        lost = 0.0
        for now, profile, end, weight in future:
            while ends[0][0] <= now:
                _, gpu, slice_ = heappop(ends)
                nodes[gpu] = nodes[gpu].before(slice_)
                costs[gpu] = nodes[gpu].costs
            column = [each[profile] for each in costs]
            lowest = min(column)
            if lowest == inf:
                lost += weight
                continue
            gpu = column.index(lowest)
            if end < horizon:
                heappush(ends, (end, gpu, nodes[gpu].slices[profile]))
            nodes[gpu] = nodes[gpu].after(profile)
            costs[gpu] = nodes[gpu].costs
        return lost
