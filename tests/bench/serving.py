"""What the server gives a second, and what it takes of memory."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import insert

from gateway.database_url import DatabaseUrl
from gateway.domain.models import Session, User
from gateway.domain.ssh_keys import make_pair
from gateway.domain.states import Status
from gateway.domain.uids import FIRST_UID
from gateway.repositories.sql.database import SqlDatabase
from tests.bench.ground import USER, BenchGateway, gateway, seconds
from tests.bench.measure import Row, progress
from tests.paths import REPOSITORY
from tests.whole_gateway import eventually, free_port

_CONNECTIONS = 8
_TURN_SECONDS = 1.0
_KNOWN = 1_000
_PAGE, _MOST = 100, 10_000  # sessions


def throughput(runs: int) -> list[Row]:
    """Requests a second over connections that stay open, the servers by turns."""
    what, bare = "GET /sessions/{id} throughput", "a bare Flask view under the same gunicorn"
    row, rows = "Flask, SQLAlchemy and marshmallow alone", "the same of the rows"
    note = f"{_CONNECTIONS} connections, {_TURN_SECONDS:g} s a turn"
    listed = f"GET /sessions?limit={_PAGE} throughput"
    with (
        gateway(before=lambda ours: know(ours, 2 * _PAGE)) as ours,
        _bare_server() as bare_port,
        _bare_server(ours.database) as row_port,
    ):
        path = f"/sessions/{ours.open(USER, make_pair().public)}"
        one = _rates(runs, path, {"ours": ours.port, "bare": bare_port, "row": row_port})
        many = _rates(runs, f"/sessions?limit={_PAGE}", {"ours": ours.port, "row": row_port})
        token = ours.run("token", "create", "bench", "--role", "operator").stdout.strip()
        known = _rates(runs, path, {"ours": ours.port, "row": row_port}, token)
    return [
        Row("throughput", what, bare, one["ours"], one["bare"], unit="/s", note=note),
        Row("view", what, row, one["ours"], one["row"], unit="/s", goal=0.8, at_least=True, note=note),
        Row("view-token", f"{what}, with a token", f"{row}, without", known["ours"], known["row"], unit="/s"),
        Row("view-list", listed, rows, many["ours"], many["row"], unit="/s", goal=0.8, at_least=True),
    ]


def pages(runs: int) -> list[Row]:
    """A page of many sessions against a page of few: an index finds both."""
    took: dict[int, list[float]] = {}
    for sessions in (2 * _PAGE, _MOST):
        with gateway(before=lambda ours: know(ours, sessions)) as ours:  # noqa: B023 (called at once)
            took[sessions] = []
            for _ in range(10 * runs):
                took[sessions].append(seconds(lambda: ours.request("GET", f"/sessions?limit={_PAGE}")))  # noqa: B023
        progress("pages", len(took), 2)
    few, many = took.values()
    what = f"GET /sessions?limit={_PAGE}, {_MOST:,} sessions known"
    return [Row("page", what, f"{2 * _PAGE} known", many, few)]


def scrapes(runs: int) -> list[Row]:
    """How long /metrics takes over many sessions."""
    took: list[float] = []
    with gateway(before=lambda ours: know(ours, _KNOWN)) as ours:
        eventually(lambda: _has_ticked(ours), seconds=120)
        for run in range(runs):
            began = time.perf_counter()
            status, _ = ours.request("GET", "/metrics")
            took.append((time.perf_counter() - began) * 1000)
            assert status == 200
            progress("scrapes", run + 1, runs)
    return [Row("metrics", f"GET /metrics, {_KNOWN:,} sessions known", "", took, unit="ms", goal=150.0)]


def memory(runs: int) -> list[Row]:
    """Resident memory of all the server's processes, after requests of every kind."""
    key = make_pair().public
    resident: list[float] = []
    proportional: list[float] = []
    with gateway(before=lambda ours: know(ours, _KNOWN)) as ours:
        eventually(lambda: _has_ticked(ours), seconds=120)  # so that it has reconciled them all
        for run in range(runs):
            session_id = ours.open(USER, key)
            with ThreadPoolExecutor(_CONNECTIONS) as pool:
                paths = [f"/sessions/{session_id}", "/sessions", "/gpus", "/gpus/profiles", "/readyz"]
                answers = list(pool.map(lambda path: ours.request("GET", path), paths * 4))
            assert all(status == 200 for status, _ in answers), answers
            ours.close(session_id)
            sizes = [memory_of(pid) for pid in processes(ours.processes["serve"].pid)]
            resident.append(sum(rss for rss, _ in sizes))
            proportional.append(sum(pss for _, pss in sizes))
            progress("memory", run + 1, runs)
    note = f"{len(sizes)} processes after the last of {runs} rounds of requests of every kind"
    what = f"memory of the server, {_KNOWN:,} sessions known"
    return [
        Row("memory", what, "", resident[-1:], unit="MB", note=f"the sum of RSS; {note}"),
        Row(
            "memory-pss",
            f"{what}, PSS",
            "",
            proportional[-1:],
            unit="MB",
            goal=120.0,
            note="shared pages counted once",
        ),
    ]


def _has_ticked(ours: BenchGateway) -> bool:
    """Whether the reaper has finished a tick, which begins with a reconciliation."""
    return b"gpu_gateway_reaper_tick_timestamp_seconds " in ours.request("GET", "/metrics")[1]


@contextmanager
def _bare_server(*database: Path | str) -> Iterator[int]:
    port = free_port()
    command = [sys.executable, "-m", "tests.bench.bare", str(port), *map(str, database)]
    with subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL) as process:
        try:
            eventually(lambda: _listens(port))
            yield port
        finally:
            process.terminate()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _rates(runs: int, path: str, ports: Mapping[str, int], token: str = "") -> Mapping[str, list[float]]:
    """The rates of each server, which take turns. The first turn of each does not count."""
    rates: dict[str, list[float]] = {name: [] for name in ports}
    for port in ports.values():
        _rate(port, path, token)
    for run in range(runs):
        for name in list(ports)[:: 1 if run % 2 else -1]:
            rates[name].append(_rate(ports[name], path, token))
        progress("GET throughput", run + 1, runs)
    return rates


def _rate(port: int, path: str, token: str) -> float:
    """Answers a second, from several clients that each wait for one before they ask for the next."""
    authorization = f"Authorization: Bearer {token}\r\n" if token else ""
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{authorization}\r\n".encode()
    deadline = time.perf_counter() + _TURN_SECONDS

    def one_client(_: int) -> int:
        count = 0
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            while time.perf_counter() < deadline:
                connection.sendall(request)
                _receive_answer(connection)
                count += 1
        return count

    began = time.perf_counter()
    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        total = sum(pool.map(one_client, range(_CONNECTIONS)))
    return total / (time.perf_counter() - began)


def _receive_answer(connection: socket.socket) -> None:
    received = b""
    while b"\r\n\r\n" not in received:
        received += _some(connection)
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += _some(connection)


def _some(connection: socket.socket) -> bytes:
    received = connection.recv(65536)
    assert received, "the server closed the connection"
    return received


def know(ours: BenchGateway, sessions: int) -> None:
    """Rows of sessions that are being made: those alone are known without having a container."""
    now = datetime.now(UTC).replace(microsecond=0)
    users = [{"id": f"known{number}", "uid": FIRST_UID + number} for number in range(sessions)]
    database = SqlDatabase(DatabaseUrl(ours.database))
    with database.engine.begin() as connection:
        connection.execute(insert(User), users)
    with database.begin() as rows:
        for number, user in enumerate(users):
            pair = make_pair()
            rows.add(
                Session(
                    id=f"00000000-0000-4000-8000-{number:012}",
                    user_id=user["id"],
                    status=Status.PENDING,
                    mig_profile="1g.5gb",
                    gpu=f"GPU-of-another-host-{number // 7}",
                    start=number % 7,
                    size=1,
                    address=f"10.216.{9 + number // 250}.{number % 250 + 1}",
                    public_keys=[pair.public],
                    private_key=pair.private,
                    host_key=pair.public,
                    created_at=now + timedelta(minutes=5),
                    expires_at=now + timedelta(hours=2),
                )
            )
    database.engine.dispose()


def processes(group: int) -> list[int]:
    """The processes of a group: the arbiter and its workers."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if os.getpgid(int(entry.name)) == group:
                    found.append(int(entry.name))
            except ProcessLookupError:
                continue
    return found


def memory_of(pid: int) -> tuple[float, float]:
    """RSS and PSS in MB."""
    fields = dict(line.split()[:2] for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return int(fields["Rss:"]) / 1000, int(fields["Pss:"]) / 1000
