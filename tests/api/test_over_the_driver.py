"""The API over nvidia-ml-py and the simulated driver: what its failures look like to a client."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pynvml
import pytest

from gateway.repositories.nvml.gpus import Gpus
from gateway.simulation.faults import Faults
from gateway.simulation.machine import Fault
from tests.client import Answer
from tests.conftest import NOTHING, Bench, make_bench
from tests.fakes.driver import simulated_driver

CREATE = "nvmlDeviceCreateGpuInstanceWithPlacement"


@dataclass
class Host:
    """One driver, and the gateways that are pointed at it."""

    directory: Path
    empty_database: Path
    faults: Faults

    def gateway(self, name: str) -> Bench:
        directory = self.directory / name
        directory.mkdir()
        gpus = Gpus(directory / "locks", simulated=True, sleep=lambda _: None)
        return make_bench(directory, self.empty_database, gpus)


@pytest.fixture
def host(tmp_path: Path, empty_database: Path) -> Iterator[Host]:
    with simulated_driver("1xA100-40GB", tmp_path / "simulated-gpus.json") as faults:
        yield Host(tmp_path, empty_database, faults)


@pytest.fixture
def bench(host: Host) -> Bench:
    return host.gateway("only")


def create(bench: Bench, user_id: str = "ann", profile: str = "3g.20gb") -> Answer:
    return bench.client.post("/sessions", json={"user_id": user_id, "mig_profile": profile})


@pytest.mark.parametrize(
    ("call", "code", "kind", "advice"),
    [
        (CREATE, pynvml.NVML_ERROR_NO_PERMISSION, "driver-unavailable", "mig/config"),
        ("*", pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "driver-unavailable", "reboot"),
        ("*", pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "driver-unavailable", "modprobe nvidia"),
        (CREATE, pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES, "placement-taken", "stands in that place"),
        (CREATE, pynvml.NVML_ERROR_GPU_IS_LOST, "gpu-lost", "dmesg"),
    ],
)
def test_a_driver_error_is_a_503_that_says_what_to_do(
    host: Host, bench: Bench, call: str, code: int, kind: str, advice: str
) -> None:
    host.faults.inject(Fault(call, code))
    response = create(bench)
    assert (response.status_code, response.json["type"]) == (503, f"/problems/{kind}")
    assert advice in response.json["detail"]
    host.faults.clear()
    bench.reconciler.reconcile()
    assert bench.leftovers() == NOTHING
    assert create(bench).status_code == 201


@pytest.mark.parametrize("call", [CREATE, "nvmlGpuInstanceCreateComputeInstance"])
def test_a_creation_that_succeeds_after_its_timeout_leaves_nothing_behind(
    host: Host, bench: Bench, call: str
) -> None:
    host.faults.inject(Fault(call, pynvml.NVML_ERROR_TIMEOUT, effect=True))
    assert create(bench).status_code == 503
    host.faults.clear()
    assert bench.leftovers() == NOTHING


def test_sessions_continue_after_a_driver_upgrade(host: Host, bench: Bench) -> None:
    create(bench)
    before = bench.leftovers()
    host.faults.inject(Fault("*", pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH))
    bench.reconciler.reconcile()
    assert bench.client.get("/sessions").json["sessions"][0]["status"] == "active"
    host.faults.clear()
    assert bench.leftovers() == before


def test_an_empty_list_of_gpus_ends_no_session(host: Host, bench: Bench) -> None:
    create(bench)
    host.faults.hide_devices()
    bench.reconciler.reconcile()
    assert len(bench.sessions.list()) == 1


def test_a_reset_of_the_gpu_ends_its_sessions_as_gpu_lost(host: Host, bench: Bench) -> None:
    session = create(bench).json
    host.faults.reset(0)
    bench.reconciler.reconcile()
    assert bench.client.get(f"/sessions/{session['session_id']}").json["reason"] == "gpu_lost"
    assert bench.leftovers() == NOTHING


def test_a_gpu_that_was_lost_and_returned_keeps_its_sessions(host: Host, bench: Bench) -> None:
    create(bench)
    host.faults.lose(0, pynvml.NVML_ERROR_GPU_IS_LOST)
    bench.reconciler.reconcile()
    [shown] = bench.client.get("/gpus").json["gpus"]
    assert (shown["healthy"], shown["reason"]) == (False, "GPU is lost")
    host.faults.clear()
    bench.reconciler.reconcile()
    [session] = bench.client.get("/sessions").json["sessions"]
    assert (session["status"], session["problem"]) == ("active", None)


def test_two_gateways_on_one_driver_never_destroy_each_others_instances(host: Host) -> None:
    mine, yours = host.gateway("mine"), host.gateway("yours")
    first, second = create(mine).json, create(yours).json
    assert create(mine, "bob").status_code == 503
    for bench in (mine, yours):
        bench.reconciler.reconcile()
        assert len(bench.sessions.list()) == 1
        owners = [one["owner"] for one in bench.client.get("/gpus").json["gpus"][0]["instances"]]
        assert sorted(owners) == ["gateway", "other"]
    mine.client.delete(f"/sessions/{first['session_id']}")
    [left] = mine.gpus.list()[0].instances
    assert left.mig_uuid == second["gpu_uuid"]


def test_an_instance_made_after_a_reset_is_not_destroyed_with_an_old_session(host: Host) -> None:
    mine, yours = host.gateway("mine"), host.gateway("yours")
    create(mine)
    host.faults.reset(0)
    kept = create(yours).json
    mine.clock.advance(days=1)
    mine.gateway.reaper.reap()
    [left] = mine.gpus.list()[0].instances
    assert left.mig_uuid == kept["gpu_uuid"]
    assert mine.sessions.list() == []


def test_two_gateways_can_fill_one_gpu_at_the_same_time(host: Host) -> None:
    gateways = [host.gateway("mine"), host.gateway("yours")]
    with ThreadPoolExecutor(8) as pool:
        wanted = [(bench, f"user{number}", "1g.5gb") for number in range(7) for bench in gateways]
        responses = list(pool.map(lambda one: create(*one), wanted))
    opened = [response.json["gpu_uuid"] for response in responses if response.status_code == 201]
    standing = [instance.mig_uuid for instance in gateways[0].gpus.list()[0].instances]
    assert sorted(opened) == sorted(map(str, standing))
    assert len(opened) == sum(len(bench.sessions.list()) for bench in gateways) >= 5
    assert {response.json["type"] for response in responses if response.status_code != 201} <= {
        "/problems/no-capacity",
        "/problems/placement-taken",
    }
