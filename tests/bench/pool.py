"""How much of what is asked for a pool can give, by the rule that places the slices.

A discrete-event simulation: requests come at random; one that fits is placed by a rule and stays
until its lease ends or its user leaves early, any other is refused. Every rule meets the same
requests. `repack` may move all slices at will, which shows what placement can win. It is no true
bound on the *number* accepted: a whole GPU refused to one makes room for seven others.

    python -m tests.bench.pool [--seeds N] [--quick] [--gpus N] [--ttl KIND] [--json FILE]
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from heapq import heappop, heappush
from itertools import product
from operator import mul
from pathlib import Path
from statistics import fmean, stdev

from gateway.domain.mig import FreeCapacity, Gpu, Placement, Profile
from gateway.domain.placement import Occupied, choose
from gateway.simulation.catalogue import KINDS
from tests.fakes.gpus import empty_gpu

GPUS = (2, 8, 32)
TABLES = ("A100-40GB", "RTX-PRO-6000")
LOADS = (0.7, 0.9, 1.1)
MEAN_TTL = 60.0  # minutes
_NODE = 8  # GPUs of a node of a cluster
LEAVE_EARLY = 0.25  # of the sessions, each at a random moment of its lease
EPOCH = datetime(2025, 1, 1, tzinfo=UTC)

# How often a profile is asked for, by its share of a GPU.
MIXES: Mapping[str, Callable[[float], float]] = {
    "uniform": lambda share: 1.0,
    "small": lambda share: 1 / share,
    "large": lambda share: share,
    "bimodal": lambda share: float(share <= 1 / 4 or share == 1),
}
TTLS: Mapping[str, Callable[[random.Random], float]] = {
    "exponential": lambda rnd: rnd.expovariate(1 / MEAN_TTL),
    "bimodal": lambda rnd: MEAN_TTL / 3 if rnd.random() < 0.75 else MEAN_TTL * 3,
}


@dataclass(frozen=True)
class Cell:
    gpus: int
    table: str
    mix: str
    ttl: str
    load: float


@dataclass(frozen=True)
class Request:
    profile: Profile
    now: datetime
    expires_at: datetime
    ends_at: datetime

    @property
    def size(self) -> int:
        return self.profile.placements[0].size


Spot = tuple[int, Placement]


class Table:
    """One kind of GPU, and what was worked out about the rooms on it."""

    def __init__(self, name: str) -> None:
        self.kind = KINDS[name]
        self.profiles = {part.name: part for part in self.gpu(0).profiles}
        self.empty = FreeCapacity.of(self.gpu(0))
        self.asked = [
            part for part in self.profiles.values() if "+" not in part.name and "-" not in part.name
        ]
        self.places = cache(lambda room, name: room.places(self.profiles[name]))
        self.after = cache(lambda room, name, place: room.without(name, self.profiles[name], place))

    def gpu(self, index: int) -> Gpu:
        return empty_gpu(self.kind.name, index)


class Pool:
    def __init__(self, table: Table, size: int) -> None:
        self.table = table
        self.gpus = [table.gpu(index) for index in range(size)]
        self.rooms = [table.empty] * size
        self.leases: dict[int, tuple[int, Occupied]] = {}
        self.demand: dict[str, float] = {}

    def spots(self, profile: Profile) -> Iterator[Spot]:
        for index, room in enumerate(self.rooms):
            for placement in self.table.places(room, profile.name):
                yield index, placement

    def add(self, number: int, request: Request, spot: Spot) -> None:
        self._put(number, *spot, request.profile.name, request.expires_at)

    def remove(self, number: int) -> None:
        freed, _ = self.leases.pop(number)
        self.rooms[freed] = self.table.empty
        for index, lease in self.leases.values():
            if index == freed:
                self.rooms[freed] = self.table.after(self.rooms[freed], lease.profile, lease.placement)

    def move(self, spots: Mapping[int, Spot]) -> None:
        moved, self.rooms = self.leases, [self.table.empty] * len(self.gpus)
        self.leases = {}
        for number, (_, lease) in moved.items():
            self._put(number, *spots[number], lease.profile, lease.expires_at)

    def _put(self, number: int, index: int, place: Placement, name: str, expires_at: datetime | None) -> None:
        self.leases[number] = index, Occupied(self.gpus[index].uuid, name, place, expires_at)
        self.rooms[index] = self.table.after(self.rooms[index], name, place)


Rule = Callable[[Pool, Request], Spot | None]


def first_fit(pool: Pool, request: Request) -> Spot | None:
    return next(pool.spots(request.profile), None)


def best_fit(pool: Pool, request: Request) -> Spot | None:
    """The fullest GPU, the lowest start."""
    return min(
        pool.spots(request.profile), key=lambda spot: pool.rooms[spot[0]].mask.bit_count(), default=None
    )


def fgd(pool: Pool, request: Request) -> Spot | None:
    """The smallest growth of the memory that is free and yet of no use to what is asked for."""

    @cache
    def fragments(room: FreeCapacity) -> float:
        useless = [part.name for part in pool.table.asked if not pool.table.places(room, part.name)]
        return room.mask.bit_count() * sum(1 + pool.demand.get(name, 0) for name in useless)

    @cache
    def growth(room: FreeCapacity, placement: Placement) -> float:
        return fragments(pool.table.after(room, request.profile.name, placement)) - fragments(room)

    def rank(spot: Spot) -> tuple[float, int, int]:
        room = pool.rooms[spot[0]]
        return growth(room, spot[1]), room.mask.bit_count(), -spot[1].start

    return min(pool.spots(request.profile), key=rank, default=None)


def cost(pool: Pool, request: Request) -> Spot | None:
    """The gateway's rule without simulated futures."""
    return _chosen(pool, request, foresight=False)


def ours(pool: Pool, request: Request) -> Spot | None:
    return _chosen(pool, request, foresight=True)


def advised(pool: Pool, request: Request) -> Spot | None:
    """A cluster with advice: the gateway's GPU, and the scheduler's start on it, which is the lowest."""
    spot = ours(pool, request)
    return next(_places(pool, request, [spot[0]]), None) if spot else None


def scheduled(pool: Pool, request: Request) -> Spot | None:
    """A cluster without advice: the emptiest node by requested memory, and its first place."""
    nodes = [range(first, min(first + _NODE, len(pool.gpus))) for first in range(0, len(pool.gpus), _NODE)]
    free = {node: sum(pool.rooms[index].mask.bit_count() for index in node) / len(node) for node in nodes}
    for node in sorted(nodes, key=lambda node: -free[node]):
        for spot in _places(pool, request, node):
            return spot
    return None


def _places(pool: Pool, request: Request, gpus: Iterable[int]) -> Iterator[Spot]:
    for index in gpus:
        for placement in pool.table.places(pool.rooms[index], request.profile.name):
            yield index, placement


def _chosen(pool: Pool, request: Request, *, foresight: bool) -> Spot | None:
    taken = [lease for _, lease in pool.leases.values()]
    wanted = request.profile.name, request.expires_at, request.now
    found = choose(pool.gpus, taken, *wanted, pool.demand, foresight=foresight)
    return (found.gpu.index, found.placement) if found else None


def repack(pool: Pool, request: Request) -> Spot | None:
    """Any free place; else every slice is put anew, the largest and pickiest first, if all then fit."""
    spot = best_fit(pool, request)
    if spot or sum(room.mask.bit_count() for room in pool.rooms) < request.size:
        return spot
    wanted = {number: pool.table.profiles[lease.profile] for number, (_, lease) in pool.leases.items()}
    spots = _pack(pool, {**wanted, -1: request.profile})
    if spots:
        pool.move(spots)
        return spots[-1]
    return None


def _pack(pool: Pool, wanted: Mapping[int, Profile]) -> dict[int, Spot] | None:
    # Largest first and highest start first is exact for these tables: halves nest in wholes and
    # pairs in halves, and the places that suit the fewest profiles are the last ones.
    trial = Pool(pool.table, len(pool.gpus))
    spots: dict[int, Spot] = {}
    for number, profile in sorted(wanted.items(), key=lambda item: _pickiness(item[1])):
        spot = max(trial.spots(profile), key=lambda spot: spot[1].start, default=None)
        if spot is None:
            return None
        trial.rooms[spot[0]] = pool.table.after(trial.rooms[spot[0]], profile.name, spot[1])
        spots[number] = spot
    return spots


def _pickiness(profile: Profile) -> tuple[int, int]:
    return -profile.placements[0].size, len(profile.placements)


RULES: Mapping[str, Rule] = {
    "first-fit": first_fit, "best-fit": best_fit, "fgd": fgd, "cost": cost, "ours": ours, "repack": repack,
    "scheduled": scheduled, "advised": advised,
}  # fmt: skip


def requests(cell: Cell, table: Table, seed: int, measured: int) -> tuple[list[Request], int]:
    """What is asked for, and how many of it come first, to fill the pool."""
    rnd = random.Random(f"{cell} {seed}")
    slices = table.kind.memory_slices
    sizes = [part.placements[0].size for part in table.asked]
    weights = [MIXES[cell.mix](size / slices) for size in sizes]
    mean_size = sum(map(mul, sizes, weights)) / sum(weights)
    mean_stay = MEAN_TTL * (1 - LEAVE_EARLY / 2)
    standing = cell.load * cell.gpus * slices / mean_size
    warm_up = round(1.5 * standing)
    made, now = [], EPOCH
    for profile in rnd.choices(table.asked, weights, k=warm_up + measured):
        now += timedelta(minutes=rnd.expovariate(standing / mean_stay))
        ttl = timedelta(minutes=TTLS[cell.ttl](rnd))
        stay = rnd.random() if rnd.random() < LEAVE_EARLY else 1.0
        made.append(Request(profile, now, now + ttl, now + ttl * stay))
    return made, warm_up


def play(
    rule: Rule, cell: Cell, table: Table, stream: Sequence[Request], warm_up: int
) -> tuple[float, float]:
    """The accepted share of the requests, and of the memory that they asked for."""
    pool, ends = Pool(table, cell.gpus), list[tuple[datetime, int]]()
    accepted = []
    for number, request in enumerate(stream):
        while ends and ends[0][0] <= request.now:
            pool.remove(heappop(ends)[1])
        name = request.profile.name
        pool.demand[name] = pool.demand.get(name, 0) + 1
        spot = rule(pool, request)
        if spot:
            pool.add(number, request, spot)
            heappush(ends, (request.ends_at, number))
        accepted.append(spot is not None)
    counted = list(zip(accepted, stream, strict=True))[warm_up:]
    given = sum(request.size for yes, request in counted if yes)
    return fmean(yes for yes, _ in counted), given / sum(request.size for _, request in counted)


Results = dict[Cell, dict[str, list[tuple[float, float]]]]  # by rule, one pair a seed


def simulate(cells: Sequence[Cell], seeds: int, measured: int) -> Results:
    tables = {name: Table(name) for name in TABLES}
    results: Results = {}
    began = time.monotonic()
    for done, cell in enumerate(cells):
        results[cell] = {rule: [] for rule in RULES}
        for seed in range(seeds):
            stream, warm_up = requests(cell, tables[cell.table], seed, measured)
            for name, rule in RULES.items():
                results[cell][name].append(play(rule, cell, tables[cell.table], stream, warm_up))
        print(f"\r{done + 1}/{len(cells)} cells, {time.monotonic() - began:.0f} s", end="", file=sys.stderr)
    print(file=sys.stderr)
    return results


def gain(of: Mapping[str, list[tuple[float, float]]], rule: str, measure: int) -> tuple[float, float]:
    """By how much a rule's share exceeds first-fit's in one cell, and the standard error of that."""
    pairs = zip(of[rule], of["first-fit"], strict=True)
    deltas = [mine[measure] - theirs[measure] for mine, theirs in pairs]
    return fmean(deltas), stdev(deltas) / len(deltas) ** 0.5


def summary(results: Results, measure: int) -> list[dict[str, object]]:
    """A row a rule: share accepted, share of the gap closed over all cells, the worst cell."""
    rows: list[dict[str, object]] = []
    gap = sum(gain(of, "repack", measure)[0] for of in results.values())
    for rule in RULES:
        gains = {cell: gain(of, rule, measure) for cell, of in results.items()}
        worst = min(gains, key=lambda cell: gains[cell][0])
        rows.append(
            {
                "rule": rule,
                "accepted": fmean(pair[measure] for of in results.values() for pair in of[rule]),
                "closes": sum(mean for mean, _ in gains.values()) / gap,
                "worse_cells": sum(mean < -2 * error for mean, error in gains.values()),
                "worst_gain": gains[worst][0],
                "worst_error": gains[worst][1],
                "worst_cell": asdict(worst),
            }
        )
    return rows


def decision_times(size: int, table: Table) -> list[float]:
    """Milliseconds of processor time for each of some decisions on a pool that is half full."""
    cell = Cell(size, table.kind.name, "uniform", "exponential", 0.9)
    stream, warm_up = requests(cell, table, 0, 200)
    pool, times = Pool(table, size), list[float]()
    for number, request in enumerate(stream):
        began = time.process_time()
        spot = (best_fit if number < 0.3 * warm_up else ours)(pool, request)
        taken = 1000 * (time.process_time() - began)
        if spot and number < 0.3 * warm_up:
            pool.add(number, request, spot)
        elif spot:
            times.append(taken)
        if len(times) == 200:
            break
    return sorted(times)


def show(title: str, rows: Sequence[Mapping[str, object]]) -> None:
    print(f"\n{title}\n{'rule':10} accepted  gap closed  cells below first-fit (2 s.e.)  worst cell")
    for row in rows:
        cell = " ".join(map(str, dict(row["worst_cell"]).values()))  # type: ignore[call-overload]
        figures = "{accepted:8.4f} {closes:10.0%} {worse_cells:30}  {worst_gain:+.4f} ±{worst_error:.4f}"
        print(f"{row['rule']:10} {figures.format(**row)} ({cell})")


def show_parts(results: Results) -> None:
    """The share of the gap that each rule closes, by memory and by requests, for each size, table and mix."""
    rules = [rule for rule in RULES if rule not in ("first-fit", "repack")]
    print(f"\nGap closed, memory / requests\n{'':18}" + " ".join(f"{rule:>13}" for rule in rules))
    for axis, values in (("gpus", GPUS), ("table", TABLES), ("mix", MIXES), ("ttl", TTLS)):
        for value in values:
            part = {cell: of for cell, of in results.items() if getattr(cell, axis) == value}
            if part:
                print(f"{axis:5} {value:12}", *(f"{_closed(part, rule):>13}" for rule in rules))


def _closed(results: Results, rule: str) -> str:
    shares = [{row["rule"]: row["closes"] for row in summary(results, measure)}[rule] for measure in (1, 0)]
    return " / ".join(f"{share:.0%}" for share in shares)


def show_cells(results: Results) -> None:
    print("\nAccepted share of the memory\n" + " ".join([f"{'cell':44}", *(f"{rule:>9}" for rule in RULES)]))
    for cell, of in results.items():
        shares = (f"{fmean(share for _, share in of[rule]):9.4f}" for rule in RULES)
        print(f"{' '.join(map(str, asdict(cell).values())):44}", *shares)


def main() -> None:
    parser = argparse.ArgumentParser(description="Accepted share by placement rule, simulated.")
    parser.add_argument("--seeds", type=int, default=20, help="runs a cell, at least 2 (default 20)")
    parser.add_argument("--quick", action="store_true", help="2 seeds, fewer cells: some minutes")
    parser.add_argument("--gpus", type=int, choices=GPUS, help="only pools of this size")
    parser.add_argument("--ttl", choices=TTLS, help="only this kind of leases")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there, too")
    options = parser.parse_args()
    loads, ttls = ((0.9,), ("exponential",)) if options.quick else (LOADS, tuple(TTLS))
    sizes, ttls = (options.gpus,) if options.gpus else GPUS, (options.ttl,) if options.ttl else ttls
    cells = [Cell(*axes) for axes in product(sizes, TABLES, MIXES, ttls, loads)]
    results = simulate(cells, 2 if options.quick else max(2, options.seeds), 200)
    show_cells(results)
    tables = {"memory": summary(results, 1), "requests": summary(results, 0)}
    for measure, rows in tables.items():
        show(f"Accepted share of the {measure}, all cells", rows)
    show_parts(results)
    for size in (8, 32, 1000):
        times = decision_times(size, Table("A100-40GB"))
        median, most = times[len(times) // 2], times[len(times) * 95 // 100]
        print(f"\n{size} GPUs: a decision takes {median:.2f} ms, 95 % take at most {most:.2f} ms")
    if options.json:
        shares = [{**asdict(cell), "shares": of} for cell, of in results.items()]
        options.json.write_text(json.dumps({"summary": tables, "cells": shares}, indent=1) + "\n")


if __name__ == "__main__":
    main()
