"""Extensions, warnings, and the reaper's tick with very many sessions."""

import sqlite3
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

from gateway.database_url import DatabaseUrl
from gateway.domain.ssh_keys import make_pair
from gateway.repositories.sql import schema
from tests.bench.ground import AT_ONCE, USER, BenchGateway, at_once, gateway, seconds
from tests.bench.measure import Row, progress
from tests.conftest import Bench, make_bench
from tests.fakes.gpus import FakeGpus

_EXTENSIONS_A_RUN = 10
_WARNED, _SECONDS = 300, 30.0  # so many sessions must be warned within so many seconds
_PATIENCE = 60.0
_RECONCILES = 3
_LIVE, _GPUS = 1000, 143  # GPUs with seven of the smallest slices each


def extend(runs: int) -> list[Row]:
    """POST extend, by turns with one committed write to a database on the same disk."""
    key, extended, written = make_pair().public, list[float](), list[float]()
    with gateway() as ours:
        session_id = ours.open(USER, key)
        path = f"/sessions/{session_id}/extend"
        with closing(_bare_database(ours.directory / "state/bare.db")) as bare:
            for run in range(runs):
                for _ in range(_EXTENSIONS_A_RUN):
                    extended.append(seconds(lambda: _require(ours.request("POST", path, {"minutes": 1}))))
                    written.append(seconds(lambda: _write(bare)))
                progress("extend", run + 1, runs)
    beyond = [ours_took - median(written) for ours_took in extended]
    note = f"median of a bare write: {1000 * median(written):.2f} ms; {len(extended)} extensions over HTTP"
    what = "POST extend, beyond a bare write"
    return [Row("extend", what, "", beyond, goal=0.02, note=note)]


def warn(runs: int) -> list[Row]:
    """From the moment when many leases come near their end until the last session is warned, while another
    lease ends."""
    key, took, late = make_pair().public, list[float](), list[float]()
    rounds = max(1, runs // 4)
    with gateway() as ours:
        _, ids = at_once(lambda number: ours.open(f"{USER}-{number}", key), range(AT_ONCE))
        for number in range(rounds):
            ends = time.time() + 2
            ending = ours.open(f"{USER}-ends", key)
            _set_end(ours, [ending], ends)
            began = time.time()
            _set_end(ours, ids, began + 600 - number)
            took.append(_until_warned(ours, ids, number + 1) - began)
            while ours.request("GET", f"/sessions/{ending}")[0] == 200:
                time.sleep(0.02)
            late.append(max(0.0, time.time() - ends))
            progress("warn", number + 1, rounds)
    goal = _SECONDS * AT_ONCE / _WARNED
    note = f"the rate of {_WARNED} within {_SECONDS:g} s, and 1 s until the next round of the warner"
    return [
        Row("warn", f"{AT_ONCE} sessions due → all warned", "", took, goal=goal + 1, note=note),
        Row("warn-expiry", "lease end → gone, while they are warned", "", late, goal=2.0),
    ]


def tick(runs: int) -> list[Row]:
    """What the reaper and the warner do each second, with real database and files and a fake Docker."""
    ticks, reconciles = list[float](), list[float]()
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as name:
        bench = _full_bench(Path(name))
        steps = bench.gateway.reaper.reap, bench.reconciler.next_expiry, bench.warnings.due
        for run in range(runs):
            ticks.append(sum(map(seconds, steps)))
            if run < _RECONCILES:
                reconciles.append(seconds(bench.reconciler.reconcile))
            progress("tick", run + 1, runs)
        bench.database.engine.dispose()
    what = f"{_LIVE:,} live sessions"
    note = "every 60 s; Docker and driver are fakes"
    return [
        Row("tick", f"tick with {what}, p95", "", ticks, goal=1.0, quantile=0.95),
        Row("reconcile", f"reconcile with {what}", "", reconciles, note=note),
    ]


def _require(answer: tuple[int, bytes]) -> None:
    assert answer[0] == 200, answer


def _bare_database(path: Path) -> sqlite3.Connection:
    """As durable as the gateway's own."""
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute("CREATE TABLE leases (id INTEGER PRIMARY KEY, ends INTEGER)")
    database.execute("INSERT INTO leases VALUES (1, 0)")
    return database


def _write(database: sqlite3.Connection) -> None:
    database.execute("UPDATE leases SET ends = ends + 1 WHERE id = 1")


def _set_end(ours: BenchGateway, ids: Sequence[str], end: float) -> None:
    """The lease of each ends then. The steps before the end count as not done yet."""
    text = f"{datetime.fromtimestamp(end, UTC):%Y-%m-%d %H:%M:%S.%f}"
    with closing(sqlite3.connect(ours.database, timeout=30)) as database, database:
        database.executemany(
            "UPDATE sessions SET boot = NULL, expires_at = ?, warned_for = NULL WHERE id = ?",
            [(text, session_id) for session_id in ids],
        )


def _until_warned(ours: BenchGateway, ids: Sequence[str], times: int) -> float:
    """When the audit log has the last of the warnings, each session's number `times`."""
    deadline = time.time() + _PATIENCE
    with closing(sqlite3.connect(ours.database, timeout=30)) as database:
        while True:
            query = "SELECT count(*) FROM events WHERE what = 'warned' AND session_id LIKE ?"
            counts = [database.execute(query, (session_id,)).fetchone()[0] for session_id in ids]
            if min(counts) >= times:
                return time.time()
            assert time.time() < deadline, f"{counts.count(times)} of {len(ids)} were warned"
            time.sleep(0.02)


def _full_bench(directory: Path) -> Bench:
    empty = directory / "empty.db"
    schema.upgrade(DatabaseUrl(empty))
    bench = make_bench(directory, empty, FakeGpus(["A100-40GB"] * _GPUS), subnet="10.213.0.0/20")
    key = make_pair().public
    for number in range(_LIVE):
        bench.sessions.open(f"{USER}-{number}", timedelta(hours=2), "1g.5gb", [key])
        progress(f"{_LIVE:,} sessions", number + 1, _LIVE)
    return bench
