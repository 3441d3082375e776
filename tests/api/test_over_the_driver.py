"""The API over nvidia-ml-py and the simulated driver: what its failures look like to a client."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pynvml
import pytest

from gateway import failpoints
from gateway.domain.mig import Placement
from gateway.domain.observation import State
from gateway.repositories.nvml.gpus import Gpus
from gateway.simulation.machine import Fault
from gateway.simulation.store import Store
from tests.client import Answer
from tests.conftest import NOTHING, Bench, make_bench
from tests.fakes.driver import simulated_driver
from tests.fakes.faults import Faults

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


def test_a_silent_list_of_instances_ends_no_session_and_leaks_no_slice(host: Host, bench: Bench) -> None:
    session = create(bench).json
    host.faults.list_nothing()
    bench.reconciler.reconcile()
    assert [one.status for one in bench.sessions.list()] == ["active"]
    assert bench.client.delete(f"/sessions/{session['session_id']}").status_code == 202
    assert "reports no free capacity" in bench.client.get("/sessions").json["sessions"][0]["problem"]
    host.faults.clear()
    bench.reconciler.reconcile()
    assert bench.leftovers() == NOTHING


def test_a_gateway_that_has_just_started_ends_no_session_on_a_silent_list(host: Host, bench: Bench) -> None:
    create(bench)
    host.faults.list_nothing()
    again = make_bench(host.directory / "only", host.empty_database, Gpus(host.directory / "only/locks"))
    again.containers, again.pipes = bench.containers, bench.pipes
    seen = replace(bench.host, gpus=again.gpus).observe(bench.sessions.list())
    assert [state.state for state in seen.states.values()] == [State.RUNNING]


def test_a_slice_is_given_back_only_when_the_driver_has_destroyed_it(host: Host, bench: Bench) -> None:
    session = create(bench).json
    host.faults.leave_remnants()
    assert bench.client.delete(f"/sessions/{session['session_id']}").status_code == 202
    assert create(bench, "bob", "7g.40gb").status_code == 503
    host.faults.clear()
    bench.reconciler.reconcile()
    assert bench.leftovers() == NOTHING


def test_a_rollback_whose_destroy_lies_leaks_nothing(host: Host, bench: Bench) -> None:
    code = pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES
    host.faults.inject(Fault("nvmlGpuInstanceCreateComputeInstance", code, times=1))
    host.faults.leave_remnants(times=9)
    assert create(bench).status_code == 503
    host.faults.clear()
    bench.reconciler.reconcile()
    assert bench.leftovers() == NOTHING


@pytest.mark.parametrize("place", ["after-intent-commit", "after-workspace-make"])
def test_what_another_program_made_after_a_crash_is_not_taken_for_the_sessions(
    host: Host, bench: Bench, place: str
) -> None:
    """The gateway is killed between its record in the database and the create."""
    child = os.fork()
    if not child:
        failpoints.arm(f"{place}=kill")
        create(bench)
        os._exit(0)
    os.waitpid(child, 0)
    [session] = bench.sessions.list()
    assert session.placement
    other = Gpus(host.directory / "its-own", simulated=True)
    theirs = other.create(str(session.gpu), session.mig_profile, session.placement)
    bench.reconciler.reconcile()
    assert bench.sessions.list() == []
    assert bench.gpus.list()[0].instances == (theirs,)


def test_an_instance_that_comes_long_after_its_time_out_goes_with_the_next_tick(
    host: Host, bench: Bench
) -> None:
    host.faults.time_out(late=True, times=1)
    assert create(bench).status_code == 503
    assert bench.sessions.list() == []
    host.faults.finish_late()
    assert bench.instances() == ["3g.20gb"]
    bench.reconciler.reconcile()
    assert bench.leftovers() == NOTHING


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_INVALID_ARGUMENT, pynvml.NVML_ERROR_NOT_FOUND])
def test_no_request_fails_because_another_session_is_just_closed(host: Host, bench: Bench, code: int) -> None:
    create(bench)
    for path in ("/gpus", "/gpus/profiles", "/gpus/fit?profile=1g.5gb"):
        host.faults.lose_handles(code, times=1)
        assert bench.client.get(path).status_code == 200
    host.faults.lose_handles(code, times=1)
    assert create(bench, "bob", "1g.5gb").status_code == 201


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


def test_a_user_whose_gpu_is_lost_gets_a_session_on_another_one(tmp_path: Path, empty_database: Path) -> None:
    with simulated_driver("2xA100-40GB", tmp_path / "simulated-gpus.json") as faults:
        bench = Host(tmp_path, empty_database, faults).gateway("only")
        first = create(bench).json
        [index] = [each["index"] for each in bench.client.get("/gpus").json["gpus"] if each["instances"]]
        faults.lose(index, pynvml.NVML_ERROR_GPU_IS_LOST)
        assert bench.client.delete(f"/sessions/{first['session_id']}").status_code == 204
        second = create(bench)
        assert second.status_code == 201
        faults.clear()  # it returns, and its instance has survived
        bench.reconciler.reconcile()
        standing = [each for gpu in bench.client.get("/gpus").json["gpus"] for each in gpu["instances"]]
        assert [each["session_id"] for each in standing] == [second.json["session_id"]]


def test_a_gpu_that_was_taken_out_of_the_server_holds_up_no_user(
    tmp_path: Path, empty_database: Path
) -> None:
    state = tmp_path / "simulated-gpus.json"
    with simulated_driver("2xA100-40GB", state) as faults:
        host = Host(tmp_path, empty_database, faults)
        bench = host.gateway("only")
        create(bench)
        [used] = [each["uuid"] for each in bench.client.get("/gpus").json["gpus"] if each["instances"]]
        with Store(state).change() as machine:
            machine.gpus = [gpu for gpu in machine.gpus if gpu.uuid != used]
        bench.containers.lose(bench.client.get("/sessions").json["sessions"][0]["session_id"])
        gpus = Gpus(host.directory / "only/locks", simulated=True)
        restarted = make_bench(host.directory / "only", empty_database, gpus)
        restarted.reconciler.reconcile()
        assert restarted.leftovers() == NOTHING
        assert create(restarted).status_code == 201


def test_a_profile_whose_gpu_was_lost_before_the_start_is_unavailable_and_not_unknown(
    tmp_path: Path, empty_database: Path
) -> None:
    with simulated_driver("1xA100-40GB,1xA30", tmp_path / "simulated-gpus.json") as faults:
        faults.lose(1, pynvml.NVML_ERROR_GPU_IS_LOST)
        bench = Host(tmp_path, empty_database, faults).gateway("only")
        answer = create(bench, profile="2g.12gb")
        assert (answer.status_code, answer.json["type"]) == (503, "/problems/no-capacity")
        assert "GPU 1 is out of order: GPU is lost" in answer.json["detail"]
        assert bench.client.get("/gpus/fit?profile=2g.12gb").status_code == 503
        assert create(bench, profile="3g.20gb").status_code == 201
        faults.clear()
        assert create(bench, "bob", "2g.12gb").status_code == 201
        assert create(bench, "cid", "9g.999gb").status_code == 422
        faults.lose(1, pynvml.NVML_ERROR_GPU_IS_LOST)
        assert create(bench, "cid", "2g.12gb").json["type"] == "/problems/no-capacity"


def test_a_profile_whose_gpu_waits_for_a_reset_is_unavailable_and_not_unknown(
    tmp_path: Path, empty_database: Path
) -> None:
    with simulated_driver("1xA100-40GB,1xA30", tmp_path / "simulated-gpus.json") as faults:
        faults.set_mig_mode(1, current=0, pending=1)
        bench = Host(tmp_path, empty_database, faults).gateway("only")
        answer = create(bench, profile="2g.12gb")
        assert (answer.status_code, answer.json["type"]) == (503, "/problems/no-capacity")
        assert "nvidia-smi --gpu-reset" in answer.json["detail"]


def test_a_silent_list_makes_a_static_profile_unavailable_and_not_unknown(
    tmp_path: Path, empty_database: Path
) -> None:
    with simulated_driver("1xA100-40GB", tmp_path / "simulated-gpus.json") as faults:
        gpus = Gpus(tmp_path / "locks", simulated=True)
        uuid = gpus.list()[0].uuid
        gpus.create(uuid, "3g.20gb", Placement(4, 4))
        gpus.create(uuid, "1g.5gb", Placement(0, 1))
        bench = make_bench(tmp_path, empty_database, gpus, mig_policy="static")
        count = len(gpus.list()[0].profiles)
        faults.list_nothing(times=3 * count)
        assert create(bench).status_code == 503
        assert create(bench).status_code == 201


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
