"""One of several processes that race for the last slice of a GPU: `python -m tests.soak.race DIRECTORY NAME`.

At each line on its input it opens many sessions at once, or closes those it won, and prints what came of it.
"""

import json
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

from gateway import simulation
from gateway.errors import GatewayError
from gateway.repositories.nvml.gpus import Gpus
from tests.conftest import Bench, make_bench

AT_ONCE = 100


def attempt(bench: Bench, user_id: str) -> str:
    """The id of the session, or the name of what was raised."""
    try:
        return bench.sessions.open(user_id, timedelta(hours=1), "7g.40gb").session.id
    except GatewayError as error:
        return type(error).__name__


def race(bench: Bench, name: str) -> dict[str, int]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        outcomes = list(pool.map(lambda number: attempt(bench, f"{name}{number}"), range(AT_ONCE)))
    return Counter("won" if "-" in outcome else outcome for outcome in outcomes)


def close_all(bench: Bench) -> dict[str, int]:
    return Counter(str(bench.sessions.close(session.id)) for session in bench.sessions.list())


def main(directory: Path, name: str) -> None:
    simulation.install("1xA100-40GB", directory / "simulated-gpus.json")
    bench = make_bench(directory, directory / "empty.db", Gpus(directory / "locks", simulated=True))
    print("ready", flush=True)
    for line in sys.stdin:
        outcomes = race(bench, name) if line == "race\n" else close_all(bench)
        print(json.dumps(outcomes), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
