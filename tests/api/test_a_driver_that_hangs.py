"""Calls to the driver that time out, and what they created."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.domain.mig import Placement
from gateway.errors import DriverUnavailable
from gateway.repositories.nvml.gpus import Gpus
from gateway.repositories.nvml.time_limit import TimeLimitedGpus
from gateway.simulation.machine import Fault
from tests.conftest import NOTHING, Bench, BenchMaker
from tests.fakes.driver import simulated_driver
from tests.fakes.faults import Faults
from tests.fakes.gpus import FakeGpus
from tests.whole_gateway import eventually

CREATE = "nvmlDeviceCreateGpuInstanceWithPlacement"
LIMIT, HANGS = 0.8, 2.0  # seconds: a thread in a C call knows no other clock


@pytest.fixture
def faults(tmp_path: Path) -> Iterator[Faults]:
    with simulated_driver("1xA100-40GB", tmp_path / "simulated-gpus.json") as faults:
        yield faults
        for thread in threading.enumerate():
            if thread.name == "driver":
                thread.join(timeout=5)


@pytest.fixture
def gpus(faults: Faults, tmp_path: Path) -> TimeLimitedGpus:
    return TimeLimitedGpus(Gpus(tmp_path / "locks", simulated=True, lock_seconds=LIMIT / 2), LIMIT)


@pytest.fixture
def bench(bench_of: BenchMaker, gpus: TimeLimitedGpus) -> Bench:
    return bench_of(gpus)


@pytest.mark.parametrize(
    "call", ["nvmlDeviceCreateGpuInstanceWithPlacement", "nvmlGpuInstanceCreateComputeInstance"]
)
def test_a_creation_that_succeeds_too_late_is_undone(bench: Bench, faults: Faults, call: str) -> None:
    faults.inject(Fault(call, delay=HANGS, times=1))
    response: Any = bench.client.post("/sessions", json={"user_id": "ann"})
    assert response.status_code == 503
    assert "did not answer within" in response.json["detail"]
    time.sleep(HANGS)
    bench.reconciler.reconcile()
    assert bench.leftovers() == NOTHING
    assert bench.client.post("/sessions", json={"user_id": "ann"}).status_code == 201


def test_a_deletion_that_times_out_is_completed_later(bench: Bench, faults: Faults) -> None:
    session: Any = bench.client.post("/sessions", json={"user_id": "ann"}).json
    faults.inject(Fault("nvmlGpuInstanceDestroy", delay=HANGS, times=1))
    assert bench.client.delete(f"/sessions/{session['session_id']}").status_code == 202
    time.sleep(HANGS)
    bench.reconciler.reconcile()
    assert bench.leftovers() == NOTHING


def test_a_read_that_times_out_ends_no_session(bench: Bench, faults: Faults) -> None:
    session: Any = bench.client.post("/sessions", json={"user_id": "ann"}).json
    faults.inject(Fault("nvmlDeviceGetCount_v2", delay=HANGS, times=1))
    bench.reconciler.reconcile()
    assert bench.client.get(f"/sessions/{session['session_id']}").json["status"] == "active"


def test_a_call_to_a_gpu_times_out(gpus: TimeLimitedGpus, faults: Faults) -> None:
    uuid = gpus.list()[0].uuid
    faults.inject(Fault(CREATE, delay=HANGS, times=1))
    with pytest.raises(DriverUnavailable, match="did not answer within 0.8 s"):
        gpus.create(uuid, "1g.5gb", Placement(0, 1))
    with pytest.raises(DriverUnavailable, match="Another call for GPU"):
        gpus.create(uuid, "1g.5gb", Placement(1, 1))
    time.sleep(HANGS)
    assert [instance.placement for instance in gpus.list()[0].instances] == [Placement(0, 1)]


def test_the_number_of_waiting_threads_is_limited(gpus: TimeLimitedGpus, faults: Faults) -> None:
    faults.inject(Fault("nvmlDeviceGetCount_v2", delay=2 * HANGS))
    callers = [threading.Thread(target=_list, args=(gpus,)) for _ in range(40)]
    for caller in callers:
        caller.start()
    time.sleep(LIMIT / 2)
    waiting = [thread for thread in threading.enumerate() if thread.name == "driver"]
    assert len(waiting) == 32
    for caller in callers:
        caller.join(timeout=5)
    faults.clear()


def _list(gpus: TimeLimitedGpus) -> None:
    with pytest.raises(DriverUnavailable):
        gpus.list()


@pytest.mark.parametrize("verb", ["destroy", "list"])  # in a closing, and in the reconciler
def test_a_driver_that_hangs_delays_no_end_of_another_lease(
    bench_of: BenchMaker, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """The session on a whole GPU needs nothing of the driver for its end."""
    bench = bench_of(FakeGpus(["A100-40GB", "L4"], whole_gpus=True), whole_gpus=True)
    for user_id, profile, minutes in (("ann", "1g.5gb", 1), ("ben", "1g.5gb", 1), ("carl", "full", 2)):
        wanted = {"user_id": user_id, "mig_profile": profile, "ttl_minutes": minutes}
        assert bench.client.post("/sessions", json=wanted).status_code == 201
    hangs, works, real = threading.Event(), threading.Event(), getattr(bench.gpus, verb)

    def hang(*arguments: Any) -> Any:
        if "full" not in arguments:
            hangs.set()
            assert works.wait(30)
        return real(*arguments)

    monkeypatch.setattr(bench.gpus, verb, hang)
    reaper = bench.gateway.reaper
    reaper.start()
    try:
        bench.clock.advance(minutes=1)
        assert hangs.wait(10)
        bench.clock.advance(minutes=1)
        eventually(lambda: "carl" not in [session.user_id for session in bench.sessions.list()], 10)
    finally:
        works.set()
        reaper.stop()
    bench.reconciler.reconcile()
    assert bench.leftovers() == NOTHING
