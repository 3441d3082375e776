"""What only a driver can do wrong: errors, time-outs, lists that lie, and GPUs that are lost."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pynvml
import pytest

from gateway.domain.mig import Instance, MigMode, Placement
from gateway.errors import DriverUnavailable, GpuLost, PlacementTaken, SliceBusy
from gateway.repositories.nvml.gpus import Gpus
from gateway.simulation.machine import Fault
from tests.repositories.gpus.conftest import CREATE, CREATE_COMPUTE, Bench


@pytest.mark.parametrize(
    ("code", "kind_of_error", "advice"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, DriverUnavailable, "--simulate-gpus"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, DriverUnavailable, "modprobe nvidia"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, DriverUnavailable, "reboot the host"),
        (pynvml.NVML_ERROR_UNKNOWN, DriverUnavailable, "Unknown Error"),
    ],
)
def test_a_driver_that_cannot_be_started_says_what_to_do(
    bench: Bench, code: int, kind_of_error: type[Exception], advice: str
) -> None:
    bench.faults.inject(Fault("nvmlInitWithFlags", code))
    with pytest.raises(kind_of_error, match=advice):
        bench.gpus.check()
    bench.faults.clear()
    bench.gpus.check()


@pytest.mark.parametrize(
    ("code", "kind_of_error", "advice"),
    [
        (pynvml.NVML_ERROR_NO_PERMISSION, DriverUnavailable, "mig/config"),
        (pynvml.NVML_ERROR_NOT_SUPPORTED, DriverUnavailable, "MIG mode"),
        (pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES, PlacementTaken, "something stands in that place"),
        (pynvml.NVML_ERROR_IN_USE, SliceBusy, "DCGM"),
        (pynvml.NVML_ERROR_GPU_IS_LOST, GpuLost, "dmesg"),
        (pynvml.NVML_ERROR_RESET_REQUIRED, GpuLost, "nvidia-smi --gpu-reset"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, DriverUnavailable, "upgrade"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, DriverUnavailable, "modprobe nvidia"),
        (pynvml.NVML_ERROR_NOT_FOUND, DriverUnavailable, "Not Found"),
    ],
)
@pytest.mark.parametrize("call", [CREATE, CREATE_COMPUTE])
def test_a_create_that_fails_says_why_and_leaves_nothing(
    bench: Bench, call: str, code: int, kind_of_error: type[Exception], advice: str
) -> None:
    bench.faults.inject(Fault(call, code))
    sentence = f"^Creating a 3g.20gb at memory slice 4 of GPU .* failed: .*{advice}"
    with pytest.raises(kind_of_error, match=sentence):
        bench.create()
    assert bench.standing() == 0


@pytest.mark.parametrize("call", [CREATE, CREATE_COMPUTE])
def test_a_create_that_succeeds_after_its_time_out_is_taken_back(bench: Bench, call: str) -> None:
    bench.faults.inject(Fault(call, pynvml.NVML_ERROR_TIMEOUT, effect=True))
    with pytest.raises(DriverUnavailable, match="Timeout"):
        bench.create()
    assert bench.standing() == 0


def test_an_instance_that_another_program_made_meanwhile_is_not_taken_back(bench: Bench) -> None:
    bench.faults.inject(Fault(CREATE, pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES, effect=True))
    with pytest.raises(PlacementTaken):
        bench.create()
    assert bench.standing() == 1


def test_what_stands_already_is_not_taken_back(bench: Bench) -> None:
    """Another program's instance, in the very place, while the driver answers nonsense."""
    other = bench.create()
    bench.faults.inject(Fault(CREATE, pynvml.NVML_ERROR_TIMEOUT))
    with pytest.raises(PlacementTaken):
        bench.create()
    bench.faults.clear()
    assert bench.gpus.list()[0].instances == (other,)


def test_a_create_that_cannot_be_taken_back_is_no_taken_placement(bench: Bench) -> None:
    """The caller must know that something of its own may stand there."""
    bench.faults.inject(Fault(CREATE_COMPUTE, pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES))
    bench.faults.inject(Fault("nvmlGpuInstanceDestroy", pynvml.NVML_ERROR_IN_USE))
    with pytest.raises(SliceBusy):
        bench.create()
    assert bench.standing() == 1
    bench.destroy()
    assert bench.standing() == 0


def test_an_instance_that_is_let_go_in_time_is_destroyed(bench: Bench) -> None:
    bench.create()
    bench.faults.hold(0, 4, "a process that is ending")
    bench.on_pause = lambda: bench.faults.hold(0, 4, None) if len(bench.pauses) == 2 else None
    bench.destroy()
    assert bench.pauses == [0.1, 0.2]
    assert bench.standing() == 0


def test_an_instance_that_is_held_for_long_is_busy_and_stays(bench: Bench) -> None:
    bench.create()
    bench.faults.hold(0, 4, "nv-hostengine")
    with pytest.raises(SliceBusy, match="look for a process on it with nvidia-smi .* DCGM"):
        bench.destroy()
    assert sum(bench.pauses) < 2
    assert bench.standing() == 1


def test_other_sessions_can_use_the_gpu_while_one_waits_for_a_holder(bench: Bench) -> None:
    bench.create()
    bench.faults.hold(0, 4, "nv-hostengine")
    created: list[Instance] = []
    bench.on_pause = lambda: created.append(
        bench.gpus.create(bench.uuid, "1g.5gb", Placement(len(created), 1))
    )
    with pytest.raises(SliceBusy):
        bench.destroy()
    assert len(created) == len(bench.pauses)


def test_remnants_of_a_destroy_that_was_reported_as_done_are_noticed(bench: Bench) -> None:
    bench.create()
    bench.faults.inject(Fault("nvmlGpuInstanceDestroy", pynvml.NVML_SUCCESS))
    with pytest.raises(SliceBusy, match="still lists it"):
        bench.destroy()
    bench.faults.clear()
    bench.destroy()
    assert bench.standing() == 0


def test_a_list_that_is_silent_for_a_moment_is_asked_for_again(bench: Bench) -> None:
    instance = bench.create()
    bench.faults.list_nothing(times=14)  # two looks at seven profiles
    gpu = bench.gpus.list()[0]
    assert (gpu.instances, gpu.complete) == ((instance,), True)


def test_a_list_that_stays_silent_is_no_proof_that_anything_is_gone(bench: Bench) -> None:
    bench.create()
    bench.faults.list_nothing()
    assert not bench.gpus.list()[0].complete
    for uuid in (None, "MIG-1"):
        with pytest.raises(SliceBusy, match="lists no GPU instance at memory slice 4 .* no free capacity"):
            bench.gpus.destroy(bench.uuid, "3g.20gb", Placement(4, 4), uuid)
    assert bench.standing() == 1
    bench.destroy()
    assert bench.standing() == 0


def test_one_profile_that_is_not_listed_is_noticed(bench: Bench) -> None:
    bench.create()
    bench.gpus.create(bench.uuid, "1g.5gb+me", Placement(0, 1))
    bench.faults.inject(Fault("nvmlDeviceGetGpuInstances", empty=True, times=1))
    assert [one.profile for one in bench.gpus.list()[0].instances] == ["1g.5gb+me", "3g.20gb"]


def test_a_silent_list_does_not_hide_what_another_program_put_in_the_place_of_a_lost_slice(
    bench: Bench, tmp_path: Path
) -> None:
    lost = bench.create()
    bench.faults.reset(0)
    other = Gpus(tmp_path / "its-own", simulated=True)
    theirs = other.create(bench.uuid, "2g.10gb", Placement(4, 2))
    bench.gpus.destroy(bench.uuid, "3g.20gb", Placement(4, 4), lost.mig_uuid)
    assert bench.gpus.list()[0].instances == (theirs,)


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_INVALID_ARGUMENT, pynvml.NVML_ERROR_NOT_FOUND])
@pytest.mark.parametrize(
    "call",
    [
        "nvmlGpuInstanceGetInfo",
        "nvmlGpuInstanceGetComputeInstanceById",
        "nvmlComputeInstanceGetInfo_v2",
        "nvmlDeviceGetGpuInstances",
        "nvmlDeviceGetMigMode",
    ],
)
def test_a_listing_that_overlaps_a_destroy_is_no_error(bench: Bench, call: str, code: int) -> None:
    bench.create()
    known = bench.gpus.list()
    bench.faults.inject(Fault(call, code, times=1))
    seen = bench.gpus.list()
    assert [replace(gpu, instances=()) for gpu in seen] == [replace(gpu, instances=()) for gpu in known]
    assert [one.placement for one in seen[0].instances] == [Placement(4, 4)]


def test_threads_that_list_while_others_create_and_destroy_see_no_error(bench: Bench) -> None:
    uuid, over = bench.uuid, threading.Event()

    def churn(start: int) -> None:
        for _ in range(15):
            made = bench.gpus.create(uuid, "1g.5gb", Placement(start, 1))
            bench.gpus.destroy(uuid, "1g.5gb", Placement(start, 1), made.mig_uuid)

    def listen() -> int:
        lists = 0
        while not over.is_set():
            assert all(gpu.fault is None for gpu in bench.gpus.list())
            lists += 1
        return lists

    with ThreadPoolExecutor(4) as pool:
        listening = [pool.submit(listen) for _ in range(2)]
        for done in [pool.submit(churn, start) for start in (0, 1)]:
            done.result()
        over.set()
        assert all(one.result() for one in listening)


@pytest.mark.parametrize(
    ("code", "times"),
    [
        (pynvml.NVML_ERROR_UNKNOWN, 1),
        (pynvml.NVML_ERROR_TIMEOUT, 1),
        (pynvml.NVML_ERROR_INVALID_ARGUMENT, 2),  # the first is for a handle that has become invalid
    ],
)
def test_a_gpu_that_answers_nonsense_is_at_fault_and_the_others_are_listed(
    bench: Bench, code: int, times: int
) -> None:
    bench.create()
    before = bench.gpus.list()
    bench.faults.inject(Fault("nvmlDeviceGetMigMode", code, times=times))
    first, *others = bench.gpus.list()
    assert (first.fault is not None, first.instances) == (True, before[0].instances)
    assert others == before[1:]
    assert bench.gpus.list() == before


def test_a_gpu_that_seems_to_have_lost_mig_altogether_keeps_its_slices(bench: Bench) -> None:
    bench.create()
    bench.faults.inject(Fault("nvmlDeviceGetMigMode", pynvml.NVML_ERROR_NOT_SUPPORTED))
    with pytest.raises(DriverUnavailable, match="does not support MIG"):
        bench.destroy()
    assert bench.standing() == 1


def test_a_rollback_whose_destroy_lies_is_noticed_and_done_later(bench: Bench) -> None:
    bench.faults.inject(Fault(CREATE_COMPUTE, pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES, times=1))
    bench.faults.leave_remnants(times=1)
    with pytest.raises(SliceBusy, match="still lists it"):
        bench.create()
    assert bench.standing() == 1
    bench.destroy()
    assert bench.standing() == 0


def test_a_rollback_whose_destroy_lies_is_noticed_though_the_list_is_silent(bench: Bench) -> None:
    bench.faults.inject(Fault(CREATE_COMPUTE, pynvml.NVML_ERROR_UNKNOWN, times=1))
    bench.faults.leave_remnants()
    bench.faults.inject(Fault("nvmlDeviceGetGpuInstances", empty=True))
    with pytest.raises(SliceBusy):
        bench.create()
    assert bench.standing() == 1
    bench.destroy()
    assert bench.standing() == 0


@pytest.mark.parametrize(
    ("call", "times"), [("nvmlGpuInstanceGetInfo", 1), ("nvmlComputeInstanceGetInfo_v2", 2)]
)
def test_a_new_instance_that_the_driver_denies_is_taken_back(bench: Bench, call: str, times: int) -> None:
    bench.faults.inject(Fault(call, pynvml.NVML_ERROR_INVALID_ARGUMENT, times=times))
    with pytest.raises(DriverUnavailable):
        bench.create()
    assert bench.standing() == 0


def test_a_compute_instance_that_is_gone_already_is_fine(bench: Bench) -> None:
    bench.create()
    instance = pynvml.nvmlDeviceGetGpuInstanceById(pynvml.nvmlDeviceGetHandleByIndex(0), 0)
    pynvml.nvmlComputeInstanceDestroy(pynvml.nvmlGpuInstanceGetComputeInstanceById(instance, 0))
    assert bench.gpus.list()[0].instances[0].mig_uuid is None
    bench.destroy()
    assert bench.standing() == 0


def test_an_instance_that_another_process_destroys_meanwhile_is_gone(bench: Bench) -> None:
    bench.create()
    bench.faults.inject(Fault("nvmlGpuInstanceDestroy", pynvml.NVML_ERROR_NOT_FOUND, effect=True))
    bench.destroy()
    assert bench.standing() == 0


def test_a_lost_gpu_is_listed_as_it_was_last_seen(bench: Bench) -> None:
    bench.create()
    before = bench.gpus.list()
    bench.faults.lose(0, pynvml.NVML_ERROR_GPU_IS_LOST)
    assert bench.gpus.list() == [replace(before[0], fault="GPU is lost"), *before[1:]]
    with pytest.raises(GpuLost):
        bench.create()
    bench.faults.clear()
    assert bench.gpus.list() == before


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED])
@pytest.mark.parametrize("is_known", [True, False])  # by its UUID, as in the row of a session that was active
def test_an_instance_on_a_lost_gpu_is_given_up_and_never_taken_for_what_comes_after_a_reset(
    bench: Bench, code: int, is_known: bool
) -> None:
    uuid = bench.uuid
    made = bench.create()
    bench.faults.lose(0, code)
    bench.gpus.destroy(uuid, "3g.20gb", Placement(4, 4), made.mig_uuid if is_known else None)
    bench.gpus.tidy()  # does nothing, and says nothing
    bench.faults.reset(0)
    bench.create()
    bench.gpus.tidy()
    assert bench.standing() == 1
    bench.destroy()
    assert bench.standing() == 0
    assert list(bench.lock_dir.glob("*.late")) == list(bench.lock_dir.glob("*.json")) == []


def test_a_gpu_that_is_lost_during_a_destroy_keeps_what_is_left_on_record(bench: Bench) -> None:
    made = bench.create()
    bench.faults.inject(Fault("nvmlGpuInstanceDestroy", pynvml.NVML_ERROR_GPU_IS_LOST))
    bench.gpus.destroy(bench.uuid, "3g.20gb", Placement(4, 4), made.mig_uuid)
    assert bench.standing() == 1  # without a compute instance
    bench.gpus.tidy()
    assert bench.standing() == 0
    assert list(bench.lock_dir.glob("*.late")) == list(bench.lock_dir.glob("*.json")) == []


def test_no_record_stays_of_an_instance_that_came_back_with_a_lost_gpu(bench: Bench) -> None:
    made = bench.create()
    bench.faults.lose(0, pynvml.NVML_ERROR_GPU_IS_LOST)
    bench.gpus.destroy(made.gpu_uuid, made.profile, made.placement, made.mig_uuid)
    bench.faults.clear()
    bench.gpus.tidy()
    assert bench.standing() == 0
    assert list(bench.lock_dir.glob("*.late")) == list(bench.lock_dir.glob("*.json")) == []


def test_a_gpu_that_was_lost_before_the_start_is_listed_with_its_fault(bench: Bench) -> None:
    bench.faults.lose(1, pynvml.NVML_ERROR_RESET_REQUIRED)
    first, lost, third = bench.gpus.list()
    assert lost.fault == "GPU requires restart"
    assert (lost.index, lost.profiles) == (1, ())
    assert first.fault is third.fault is None
    bench.faults.clear()
    assert [gpu.fault for gpu in bench.gpus.list()] == [None, None, None]


def test_the_other_gpus_work_while_one_is_lost(bench: Bench) -> None:
    bench.faults.lose(1, pynvml.NVML_ERROR_GPU_IS_LOST)
    bench.create()
    bench.destroy()


def test_an_empty_list_is_no_proof_that_anything_is_gone(bench: Bench) -> None:
    bench.create()
    bench.faults.hide_devices()
    for act in (bench.gpus.check, bench.gpus.list):
        with pytest.raises(DriverUnavailable, match="none of the 3 GPUs"):
            act()
    bench.faults.clear()
    assert bench.standing() == 1


def test_a_host_that_never_had_a_gpu_has_none(bench: Bench) -> None:
    bench.faults.hide_devices()
    assert bench.gpus.list() == []


@pytest.mark.parametrize(
    ("current", "pending", "mode"),
    [(0, 0, MigMode.DISABLED), (0, 1, MigMode.PENDING_RESET), (1, 0, MigMode.PENDING_RESET)],
)
def test_a_gpu_offers_nothing_unless_its_mig_mode_is_on_and_stays_on(
    bench: Bench, current: int, pending: int, mode: MigMode
) -> None:
    bench.faults.set_mig_mode(0, current, pending)
    gpu = bench.gpus.list()[0]
    assert (gpu.mig_mode, gpu.profiles) == (mode, ())
    with pytest.raises(DriverUnavailable, match=r"nvidia-smi -i \S+ -mig 1"):
        bench.create()


def test_what_stands_is_listed_until_the_reset_that_is_pending(bench: Bench) -> None:
    instance = bench.create()
    bench.faults.set_mig_mode(0, current=1, pending=0)
    assert bench.gpus.list()[0].instances == (instance,)
    bench.faults.reset(0)
    assert bench.gpus.list()[0].instances == ()
    bench.destroy()
