"""How long requests wait in line, by the rule that serves it, and whether promises are kept.

A discrete-event simulation over the product's own plan (`gateway.domain.waiting`) and placement. Every rule
meets the same requests; a quarter of the sessions end early. Minutes.

    python -m tests.bench.waiting [--seeds N] [--requests N] [--json FILE]
    python -m tests.bench.waiting --plans

The second form measures plans of 1,000 requests on 64 GPUs.

- FIFO: only the first in line may start.
- whatever fits: no reservations, as callers who retry get it.
- EASY: a reservation for the first in line; the others start if they do not delay it.
- promise: a reservation for each, that only gets earlier (the product).
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from heapq import heappop, heappush
from pathlib import Path
from statistics import fmean

from gateway.domain.line_plan import plan, spots
from gateway.domain.mig import MigPolicy, Placement
from gateway.domain.placement import Occupied, choose
from gateway.domain.timeline import OpenGpu, Slice
from gateway.domain.waiting import Lease, Plan, Reservation, Waiter
from tests.bench.pool import EPOCH, MIXES, Table

TABLE = "A100-40GB"
LOADS = {2: 0.85, 8: 0.9, 32: 0.95}  # by the number of GPUs: a larger pool has a line only near its limit
CHOSEN_MIXES = ("small", "uniform", "bimodal")
MEAN_TTL, LEAVE_EARLY = 120.0, 0.25


@dataclass(frozen=True)
class Cell:
    gpus: int
    mix: str


@dataclass(frozen=True)
class Request:
    waiter: Waiter
    stays: timedelta  # shorter than the lease for those who leave early


@dataclass
class Pool:
    """The sessions at one moment."""

    gpus: list[OpenGpu]
    leases: dict[str, Lease] = field(default_factory=dict)

    def place(
        self, waiter: Waiter, now: datetime, among: Sequence[Reservation] | None = None
    ) -> Lease | None:
        """Begin a session by the product's placement."""
        occupied = [
            Occupied(each.gpu, each.slice.profile, each.slice.placement, each.ends)
            for each in self.leases.values()
        ]
        allowed = None if among is None else {(each.gpu, each.slice.placement) for each in among}
        ends, gpus = now + waiter.lease, [each.gpu for each in self.gpus]
        found = choose(gpus, occupied, waiter.profile, ends, now, among=allowed)
        if found is None:
            return None
        return self.begin(waiter, found.gpu.uuid, Slice(waiter.profile, found.placement), now)

    def begin(self, waiter: Waiter, gpu: str, slice_: Slice, now: datetime) -> Lease:
        lease = self.leases[waiter.id] = Lease(waiter.id, gpu, slice_, now + waiter.lease)
        return lease


class Rule:
    """Which requests of the line begin at a moment. `late` counts promises that got later."""

    late = 0
    next_start: datetime | None = None  # when a reservation begins

    def serve(self, pool: Pool, line: list[Waiter], now: datetime) -> Iterator[Waiter]:
        raise NotImplementedError


class Fifo(Rule):
    def serve(self, pool: Pool, line: list[Waiter], now: datetime) -> Iterator[Waiter]:
        for waiter in list(line):
            if pool.place(waiter, now) is None:
                return
            yield waiter


class WhateverFits(Rule):
    def serve(self, pool: Pool, line: list[Waiter], now: datetime) -> Iterator[Waiter]:
        full: set[str] = set()
        for waiter in list(line):
            if waiter.profile in full:
                continue
            if pool.place(waiter, now):
                yield waiter
            else:
                full.add(waiter.profile)


class Easy(Rule):
    def serve(self, pool: Pool, line: list[Waiter], now: datetime) -> Iterator[Waiter]:
        waiting = list(line)
        while waiting and pool.place(waiting[0], now):
            yield waiting.pop(0)
        if not waiting:
            return
        first = waiting[0]
        made = plan(pool.gpus, list(pool.leases.values()), [first], now)
        reserved = [replace(first, reservation=made.reservations.get(first.id))]
        for waiter in waiting[1:]:
            free = spots(pool.gpus, list(pool.leases.values()), reserved, waiter.profile, waiter.lease, now)
            if free and pool.place(waiter, now, free):
                yield waiter


class Promise(Rule):
    def __init__(self) -> None:
        self._held: dict[str, Reservation] = {}

    def serve(self, pool: Pool, line: list[Waiter], now: datetime) -> Iterator[Waiter]:
        while line:
            waiters = [replace(each, reservation=self._held.get(each.id)) for each in line]
            made = plan(pool.gpus, list(pool.leases.values()), waiters, now)
            self._note(made)
            if not made.due:
                return
            for name in made.due:
                waiter = next(each for each in line if each.id == name)
                reservation = self._held.pop(name)
                pool.begin(waiter, reservation.gpu, reservation.slice, now)
                yield waiter

    def _note(self, made: Plan) -> None:
        self.late += len(made.delays)
        self._held = dict(made.reservations)
        self.next_start = min((each.start for each in self._held.values()), default=None)


RULES: Mapping[str, Callable[[], Rule]] = {
    "FIFO": Fifo,
    "whatever fits": WhateverFits,
    "EASY": Easy,
    "promise": Promise,
}


def requests(cell: Cell, table: Table, seed: int, count: int) -> list[Request]:
    rnd = random.Random(f"{cell} {seed}")
    slices = table.kind.memory_slices
    sizes = [part.placements[0].size for part in table.asked]
    weights = [MIXES[cell.mix](size / slices) for size in sizes]
    mean_size = sum(size * weight for size, weight in zip(sizes, weights, strict=True)) / sum(weights)
    gap = MEAN_TTL * (1 - LEAVE_EARLY / 2) * mean_size / (LOADS[cell.gpus] * cell.gpus * slices)
    made, now = [], EPOCH
    for number, profile in enumerate(rnd.choices(table.asked, weights, k=count)):
        now += timedelta(minutes=rnd.expovariate(1 / gap))
        asked = now.replace(microsecond=0)
        lease = timedelta(minutes=max(5, round(rnd.expovariate(1 / MEAN_TTL))))
        share = rnd.random() if rnd.random() < LEAVE_EARLY else 1.0
        until = asked + timedelta(days=365)
        made.append(Request(Waiter(f"{number:05}", profile.name, lease, asked, until), lease * share))
    return made


def play(rule: Rule, cell: Cell, table: Table, stream: Sequence[Request]) -> tuple[dict[str, float], float]:
    """The minutes that each request waited, and the share of the memory slices that was in use."""
    pool = Pool([OpenGpu(table.gpu(index), MigPolicy.DYNAMIC) for index in range(cell.gpus)])
    by_id = {request.waiter.id: request for request in stream}
    events = [(request.waiter.asked_at, 1, request.waiter.id) for request in stream]
    line: list[Waiter] = []
    waited: dict[str, float] = {}
    used = 0.0
    while events:
        now, kind, name = heappop(events)
        if kind == 1:
            line.append(by_id[name].waiter)
        elif kind == 0:
            pool.leases.pop(name)
        if events and events[0][0] == now:
            continue
        for waiter in rule.serve(pool, line, now):
            line.remove(waiter)
            waited[waiter.id] = (now - waiter.asked_at) / timedelta(minutes=1)
            stays = by_id[waiter.id].stays
            heappush(events, (now + stays, 0, waiter.id))
            used += pool.leases[waiter.id].slice.placement.size * stays.total_seconds()
        if rule.next_start and rule.next_start > now:
            heappush(events, (rule.next_start, 2, ""))
    span = (now - stream[0].waiter.asked_at).total_seconds()
    return waited, used / (span * cell.gpus * table.kind.memory_slices)


def simulate(cell: Cell, seeds: int, count: int) -> dict[str, dict[str, float]]:
    table, found = Table(TABLE), {}
    for name, make in RULES.items():
        waits: list[float] = []
        large: list[float] = []
        used, late = [], 0
        for seed in range(seeds):
            stream, rule = requests(cell, table, seed, max(count, 60 * cell.gpus)), make()
            waited, share = play(rule, cell, table, stream)
            counted = [each.waiter for each in stream[count // 10 :]]  # the pool fills first
            waits += [waited[each.id] for each in counted]
            large += [waited[each.id] for each in counted if each.profile.startswith("7g")]
            used.append(share)
            late += rule.late
        found[name] = {
            "mean": fmean(waits),
            "p95": _p95(waits),
            "p95 of 7g": _p95(large),
            "longest": max(waits),
            "used": fmean(used),
            "late": late,
        }
    return found


def _p95(values: Sequence[float]) -> float:
    return sorted(values)[int(0.95 * len(values))] if values else 0.0


def show(cell: Cell, found: Mapping[str, Mapping[str, float]]) -> None:
    print(f"\n{cell.gpus} GPUs, {cell.mix} requests, load {LOADS[cell.gpus]}")
    columns = f"{'mean':>6} {'p95':>6} {'7g p95':>7} {'longest':>8} {'used':>6}"
    print(f"{'rule':14} {columns}  later than promised")
    for name, row in found.items():
        late = f"{row['late']:.0f}" if name == "promise" else "-"
        figures = f"{row['mean']:6.0f} {row['p95']:6.0f} {row['p95 of 7g']:7.0f} {row['longest']:8.0f}"
        print(f"{name:14} {figures} {row['used']:6.0%}  {late}", flush=True)


@dataclass(frozen=True)
class LongLine:
    """A line that was planned, and then a session ended early, or somebody joined it."""

    gpus: Sequence[OpenGpu]
    leases: Sequence[Lease]
    line: Sequence[Waiter]

    def plan(self) -> Plan:
        return plan(self.gpus, self.leases, self.line, EPOCH)


def long_lines() -> Iterator[LongLine]:
    """A thousand requests on 64 GPUs, in twenty situations."""
    rnd, table = random.Random(1), Table(TABLE)
    gpus = [OpenGpu(table.gpu(index), MigPolicy.DYNAMIC) for index in range(64)]
    leases = [
        Lease(f"{gpu.gpu.uuid} {start}", gpu.gpu.uuid, half, EPOCH + timedelta(minutes=rnd.randint(1, 240)))
        for gpu in gpus
        for start in (0, 4)
        for half in [Slice("3g.20gb", Placement(start, 4))]
    ]
    line = [_random_waiter(rnd, index) for index in range(1000)]
    for _ in range(3):
        made = plan(gpus, leases, line, EPOCH)
        line = [replace(each, reservation=made.reservations.get(each.id)) for each in line]
    for index in range(10):
        yield LongLine(gpus, leases[:index] + leases[index + 1 :], line)
        yield LongLine(gpus, leases, [*line, _random_waiter(rnd, 1000 + index)])


def _random_waiter(rnd: random.Random, index: int) -> Waiter:
    profile = rnd.choice(("1g.5gb", "1g.5gb+me", "2g.10gb", "3g.20gb", "4g.20gb", "7g.40gb"))
    lease, asked = timedelta(minutes=rnd.randint(10, 480)), EPOCH + timedelta(seconds=index)
    return Waiter(f"w{index:04}", profile, lease, asked, EPOCH + timedelta(days=7))


def processor_seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def measure_plans() -> None:
    taken = sorted(min(processor_seconds(each.plan) for _ in range(5)) for each in long_lines())
    middle, worst = 1000 * taken[len(taken) // 2], 1000 * taken[-1]
    print(f"1,000 requests on 64 GPUs: median {middle:.0f} ms, worst {worst:.0f} ms of processor time")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.waiting", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--requests", type=int, default=400, help="in each cell, at least")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plans", action="store_true", help="measure the time of a plan")
    options = parser.parse_args()
    measure_plans()
    if options.plans:
        return 0
    results = []
    for cell in (Cell(gpus, mix) for gpus in LOADS for mix in CHOSEN_MIXES):
        found = simulate(cell, options.seeds, options.requests)
        show(cell, found)
        results.append({**asdict(cell), "rules": found})
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
