"""Ratios to Docker, OpenSSH, ruamel and Flask alone, ours and theirs by turns within one run.

    python -m tests.bench [--runs N] [--only NAME] [--json FILE]

Whatever the figures are, it succeeds; it fails only where something could not be measured.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.bench import leases, lifecycle, polling, routing, scale, serving, streams
from tests.bench.ground import alone
from tests.bench.measure import Row, table

PARTS: Mapping[str, Callable[[int], list[Row]]] = {
    "create": lifecycle.create_and_delete,
    "burst": lifecycle.create_at_once,
    "scale": scale.create_among_many,
    "login": routing.login,
    "streams": streams.streams,
    "publish": routing.publish,
    "reload": routing.reload,
    "mirror": scale.mirror,
    "throughput": serving.throughput,
    "page": serving.pages,
    "metrics": serving.scrapes,
    "polling": polling.polling,
    "lease": lifecycle.lease_end,
    "extend": leases.extend,
    "warn": leases.warn,
    "tick": leases.tick,
    "memory": serving.memory,
}
PACKING = "packing"  # the pool bench, a program of its own
WAITING = "waiting"  # the bench of the waiting line, as well


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=20, help="repetitions of each (default 20)")
    parser.add_argument("--only", choices=[*PARTS, PACKING, WAITING], help="one part of it")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"), metavar="FILE")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is taken away
    chosen = [options.only] if options.only else [*PARTS, PACKING, WAITING]
    options.json.parent.mkdir(parents=True, exist_ok=True)
    with alone():
        rows, failed = _measured([name for name in chosen if name in PARTS], max(1, options.runs))
    if rows:
        print(table(rows), flush=True)
        options.json.write_text(json.dumps(_as_json(rows, failed), indent=1) + "\n")
        print(f"\nAll figures: {options.json}", flush=True)
    if PACKING in chosen and _pool_bench(options.json.with_name("bench-packing.json")):
        failed.append(PACKING)
    if WAITING in chosen and _waiting_bench(options.json.with_name("bench-waiting.json")):
        failed.append(WAITING)
    if failed:
        print(f"could not be measured: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _measured(names: list[str], runs: int) -> tuple[list[Row], list[str]]:
    rows, failed = [], []
    for name in names:
        began = time.monotonic()
        try:
            rows += PARTS[name](runs)
        except Exception:  # noqa: BLE001 (the other parts are worth having)
            print(file=sys.stderr)
            traceback.print_exc()
            failed.append(name)
        print(f"{name} took {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return rows, failed


def _pool_bench(file: Path) -> int:
    print("\nPlacement in a pool, simulated:", flush=True)
    command = [sys.executable, "-m", "tests.bench.pool", "--quick", "--json", str(file)]
    return subprocess.run(command, check=False).returncode


def _waiting_bench(file: Path) -> int:
    print("\nThe waiting line, simulated; minutes:", flush=True)
    command = [sys.executable, "-m", "tests.bench.waiting", "--json", str(file)]
    return subprocess.run(command, check=False).returncode


def _as_json(rows: list[Row], failed: list[str]) -> dict[str, object]:
    machine = {"cpus": os.cpu_count(), "load": os.getloadavg(), "kernel": platform.release()}
    return {"machine": machine, "failed": failed, "rows": [row.as_json() for row in rows]}


if __name__ == "__main__":
    sys.exit(main())
