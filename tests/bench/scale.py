"""The gateway's own part of creates with very many live sessions, and a router's mirror of their routes.

The database is a real PostgreSQL. The cluster is in memory and starts sessions at once, so that nothing but
the gateway is measured.
"""

import itertools
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from gateway.app import Gateway, Parts, assemble
from gateway.database_url import DatabaseUrl
from gateway.domain import clock
from gateway.domain.gpu_pool import GpuPool
from gateway.domain.gpu_state import empty_state
from gateway.domain.mig import Gpu, MigPolicy
from gateway.domain.models import Session
from gateway.domain.pipe import Pipe
from gateway.domain.plan import Allocation, SessionPlan, SessionRequest, Started
from gateway.domain.planner import ClusterPlanner
from gateway.domain.ssh_keys import KeyPair, make_pair
from gateway.domain.states import KeysFrom
from gateway.repositories.files.pipes import Pipes
from gateway.repositories.kubernetes import objects
from gateway.repositories.kubernetes.mirror import Mirror
from gateway.repositories.kubernetes.pipes import ClusterPipes
from gateway.repositories.sql import schema
from gateway.repositories.sql.database import SqlDatabase
from gateway.server import collect_rarely
from gateway.settings import Settings
from tests.bench.ground import USER
from tests.bench.measure import Row, progress
from tests.bench.routing import pipes_of_others
from tests.fakes.cluster import MemoryLocks
from tests.fakes.cluster_host import SITE
from tests.fakes.gpus import empty_gpu
from tests.fakes.host import MemoryHost
from tests.fakes.kubernetes import FakeKubernetes
from tests.fakes.notices import FakeNotices
from tests.fakes.pipes import FakePipes
from tests.postgresql import PostgresServer

_NODES, _GPUS_EACH, _LIVE = 1000, 8, 10_000
_PROFILES = ("1g.5gb", "1g.5gb", "2g.10gb", "3g.20gb")
_KEYS = KeyPair("ssh-ed25519 public", "private")
_CREATES_A_RUN = 3


def create_among_many(runs: int) -> list[Row]:
    """From the request until the session is open, by turns on a full cluster and on an empty one."""
    full, empty, rates, key = list[float](), list[float](), list[float](), make_pair().public
    with _two_gateways() as (many, none):
        for run in range(runs):
            for number in range(_CREATES_A_RUN):
                for gateway, took in ((none, empty), (many, full)):
                    began, busy = time.perf_counter(), time.process_time()
                    gateway.sessions.open(f"{USER}-{run}-{number}", None, "1g.5gb", [key])
                    took.append(time.perf_counter() - began)
                rates.append(1 / (time.process_time() - busy))
            progress(f"creates among {_LIVE:,}", run + 1, runs)
    note = f"{_NODES * _GPUS_EACH:,} GPUs; PostgreSQL; the cluster is in memory"
    what = f"create among {_LIVE:,} sessions"
    rate = Row("create-rate", f"{what}, one core", "", rates, unit="/s", goal=20.0, at_least=True)
    return [Row("create-many", what, "create among none", full, empty, goal=2.0, note=note), rate]


def mirror(runs: int) -> list[Row]:
    """From a change of a Pipe until the pipe file of an embedded router has it."""
    cluster, took, others = FakeKubernetes(), list[float](), list(pipes_of_others(_LIVE))
    for pipe in others:
        for manifest in objects.pipe(SITE, pipe, "bench"):
            cluster.put("secrets" if manifest["kind"] == "Secret" else "pipes", manifest)
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as name:
        file, stop = _Written(Path(name) / "pipe.yaml"), threading.Event()
        follower = Mirror(cluster.api, SITE.routes, file, FakeNotices())
        thread = threading.Thread(target=follower.run, args=(stop,), daemon=True)
        thread.start()
        file.wait()
        published = ClusterPipes(cluster.api, SITE, MemoryLocks(), lambda: "bench")
        for run, pipe in enumerate(others[:runs]):
            moved = replace(pipe, host="10.9.9.9")
            began = time.perf_counter()
            published.update(lambda: moved)  # noqa: B023 (called at once)
            file.wait()
            took.append(time.perf_counter() - began)
            progress(f"mirroring {_LIVE:,} routes", run + 1, runs)
        stop.set()
    what = f"a Pipe of {_LIVE:,} changes → in the pipe file"
    return [Row("mirror", what, "", took, goal=0.1, note="the API is in memory")]


class _Written(Pipes):
    """A pipe file of which one can wait for the next publication."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._news = threading.Semaphore(0)

    def replace(self, wanted: Callable[[], Iterable[Pipe]]) -> None:
        super().replace(wanted)
        self._news.release()

    def update(self, wanted: Callable[[], Pipe | None]) -> None:
        super().update(wanted)
        self._news.release()

    def wait(self) -> None:
        assert self._news.acquire(timeout=60), "nothing was published"


class ManyNodes(MemoryHost):
    """A cluster whose scheduler takes the GPU that the gateway advises, and the last place on it."""

    def __init__(self) -> None:
        super().__init__()
        self.gpus = GpuPool(
            replace(empty_gpu("A100-40GB", index), node=f"node-{index // _GPUS_EACH:04}")
            for index in range(_NODES * _GPUS_EACH)
        )
        self._states = {gpu.uuid: empty_state(gpu) for gpu in self.gpus}
        self._pods = itertools.count(1)

    def fill(self, database: SqlDatabase, live: int) -> None:
        """Let so many users have sessions, on GPUs at random."""
        chance, now, gpus = random.Random(1), clock.shared(), list(self.gpus)
        begins = now.wall.replace(microsecond=0)
        with database.begin() as rows:
            for number in range(live):
                user = rows.user(f"user-{number}", [20000 + number])
                profile = chance.choice(_PROFILES)
                ends = begins + timedelta(minutes=chance.randrange(10, 600))
                gpu = next(gpu for gpu in iter(lambda: chance.choice(gpus), None) if self._fits(gpu, profile))
                request = SessionRequest(
                    f"session-{number}", user.id, user.uid, profile, begins, ends, _KEYS.public, _KEYS
                )
                plan = SessionPlan(request, profile, gpu)
                session = Session.planned(
                    plan,
                    image="default",
                    public_keys=[_KEYS.public],
                    keys_from=KeysFrom.GIVEN,
                    private_key=_KEYS.private,
                    now=now,
                )
                session.activate(self.start(plan), now.wall)
                rows.add(session)

    def list_gpus(self) -> list[Gpu]:
        return list(self.gpus)

    def planner(self) -> ClusterPlanner:  # type: ignore[override]
        return ClusterPlanner(self.gpus, MigPolicy.DYNAMIC)

    def line_planner(self) -> ClusterPlanner:  # type: ignore[override]
        return self.planner()

    def start(self, plan: SessionPlan) -> Started:
        assert plan.gpu is not None
        uuid, profile, number = plan.gpu.uuid, plan.mig_profile, next(self._pods)
        place = self._states[uuid].places(profile)[-1]
        self._states[uuid] = self._states[uuid].after(profile, place)
        address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        return Started(f"pod-{number}", address, Allocation(uuid, profile, place, mig_uuid=f"MIG-{number}"))

    def stop(self, session_id: str, allocation: Allocation | None) -> None:
        if allocation:
            state = self._states[allocation.gpu]
            self._states[allocation.gpu] = state.before(allocation.profile, allocation.placement)

    def _fits(self, gpu: Gpu, profile: str) -> bool:
        return bool(self._states[gpu.uuid].places(profile))


@contextmanager
def _two_gateways() -> Iterator[tuple[Gateway, Gateway]]:
    """One with very many live sessions, and one with none."""
    server = PostgresServer()
    try:
        with tempfile.TemporaryDirectory(prefix="gateway-bench-") as name:
            gateways = _gateway(server, Path(name), _LIVE), _gateway(server, Path(name), 0)
            collect_rarely()
            yield gateways
    finally:
        server.end()


def _gateway(server: PostgresServer, directory: Path, live: int) -> Gateway:
    url = DatabaseUrl(server.create())
    schema.upgrade(url)
    settings = Settings(db=url, state_dir=directory, piper_config=directory / "pipe.yaml", ssh_host="ssh.gw")
    database, host = SqlDatabase(url), ManyNodes()
    host.fill(database, live)
    return assemble(settings, Parts(database, host, FakePipes(), FakeNotices(), clock.shared))
