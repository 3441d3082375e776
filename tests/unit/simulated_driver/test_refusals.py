"""The simulated driver refuses what hardware refuses."""

import ctypes
from ctypes import byref
from pathlib import Path
from typing import Any

import pynvml
import pytest

from tests.fakes.faults import Faults
from tests.unit.simulated_driver.conftest import create, driver, fill, offered, refused, room, starts


def test_overlapping_placements_are_refused(gpu: Any) -> None:
    create(gpu, "3g.20gb", 4)
    for name, start in [("3g.20gb", 4), ("2g.10gb", 4), ("1g.5gb", 6), ("1g.10gb", 6), ("7g.40gb", 0)]:
        with refused(pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES):
            create(gpu, name, start)


def test_a_placement_that_the_profile_does_not_have_is_refused(gpu: Any) -> None:
    for name, start in [("2g.10gb", 1), ("2g.10gb", 6), ("4g.20gb", 4), ("1g.5gb", 7)]:
        with refused(pynvml.NVML_ERROR_INVALID_ARGUMENT):
            create(gpu, name, start)


def test_a_placement_of_another_size_is_refused(gpu: Any) -> None:
    place = pynvml.c_nvmlGpuInstancePlacement_t(0, 2)
    with refused(pynvml.NVML_ERROR_INVALID_ARGUMENT):
        pynvml.nvmlDeviceCreateGpuInstanceWithPlacement(gpu, 9, byref(place))


def test_a_placement_passed_by_value_is_refused(gpu: Any) -> None:
    with refused(pynvml.NVML_ERROR_INVALID_ARGUMENT):
        pynvml.nvmlDeviceCreateGpuInstanceWithPlacement(gpu, 9, pynvml.c_nvmlGpuInstancePlacement_t(0, 4))


def test_media_extensions_are_given_once_a_gpu(gpu: Any) -> None:
    create(gpu, "1g.5gb+me", 0)
    with refused(pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES):
        create(gpu, "1g.5gb+me", 1)


@pytest.mark.parametrize(
    ("kind", "first", "second", "start"),
    [
        ("A30", "1g.6gb+me", "2g.12gb+me", 2),
        ("RTX-PRO-6000", "1g.24gb+me", "1g.24gb+me.all", 3),
    ],
)
def test_different_profiles_share_the_media_engines(
    kind: str, first: str, second: str, start: int, state_file: Path
) -> None:
    with driver(f"1x{kind}", state_file):
        gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
        create(gpu, first, 0)
        with refused(pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES):
            create(gpu, second, start)


def test_beside_all_media_engines_only_profiles_without_any_fit(state_file: Path) -> None:
    with driver("1xRTX-PRO-6000", state_file):
        gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
        create(gpu, "1g.24gb+me.all", 0)
        assert room(gpu) == {"1g.24gb-me": 3, "2g.48gb-me": 1}
        with refused(pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES):
            create(gpu, "1g.24gb", 3)
        create(gpu, "2g.48gb-me", 6)
        assert room(gpu) == {"1g.24gb-me": 1}


def test_decoders_run_out_before_memory_does(state_file: Path) -> None:
    with driver("1xRTX-PRO-6000", state_file):
        gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
        for name, start in [("1g.24gb-me", 0), ("1g.24gb+gfx", 3), ("1g.24gb+me", 6)]:
            create(gpu, name, start)
        assert room(gpu) == {"1g.24gb": 1, "1g.24gb+gfx": 1, "1g.24gb-me": 1}


def test_no_more_of_a_profile_than_its_count(gpu: Any) -> None:
    for start in range(7):
        create(gpu, "1g.5gb", start)
    with refused(pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES):
        create(gpu, "1g.10gb", 6)
    assert room(gpu) == {}


def test_two_3g_leave_one_compute_slice_that_no_profile_can_use(gpu: Any) -> None:
    create(gpu, "3g.20gb", 0)
    create(gpu, "3g.20gb", 4)
    assert room(gpu) == {}


def test_a_4g_and_a_3g_fill_a_gpu(gpu: Any) -> None:
    create(gpu, "4g.20gb", 0)
    assert room(gpu)["3g.20gb"] == 1
    create(gpu, "3g.20gb", 4)
    assert room(gpu) == {}


def test_a_1g_in_slice_6_leaves_slice_7_to_nobody(gpu: Any) -> None:
    create(gpu, "1g.5gb", 6)
    create(gpu, "4g.20gb", 0)
    create(gpu, "2g.10gb", 4)
    assert room(gpu) == {}


def test_compute_slices_run_out_before_memory_does(gpu: Any) -> None:
    create(gpu, "4g.20gb", 0)
    create(gpu, "2g.10gb", 4)
    create(gpu, "1g.10gb", 6)
    assert room(gpu) == {}


def test_a_placement_left_to_the_driver_is_the_first_that_is_free(gpu: Any) -> None:
    create(gpu, "1g.5gb", 0)
    instance = pynvml.nvmlDeviceCreateGpuInstance(gpu, 14)
    assert pynvml.nvmlGpuInstanceGetInfo(instance).placement.start == 2


def test_left_to_the_driver_1g_1g_2g_3g_does_not_fit_everywhere(gpu: Any) -> None:
    for driver_id in (19, 19, 14, 9):
        pynvml.nvmlDeviceCreateGpuInstance(gpu, driver_id)
    with refused(pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES):
        pynvml.nvmlDeviceCreateGpuInstance(gpu, 9)


def test_a_gpu_instance_with_a_compute_instance_is_in_use(gpu: Any) -> None:
    instance = create(gpu, "3g.20gb", 0)
    compute = fill(instance, 3)
    with refused(pynvml.NVML_ERROR_IN_USE):
        pynvml.nvmlGpuInstanceDestroy(instance)
    pynvml.nvmlComputeInstanceDestroy(compute)
    pynvml.nvmlGpuInstanceDestroy(instance)
    assert room(gpu)["7g.40gb"] == 1


def test_a_held_instance_is_in_use(gpu: Any, faults: Faults) -> None:
    instance = create(gpu, "3g.20gb", 4)
    compute = fill(instance, 3)
    faults.hold(0, 4, "nv-hostengine")
    with refused(pynvml.NVML_ERROR_IN_USE):
        pynvml.nvmlComputeInstanceDestroy(compute)
    faults.hold(0, 4, None)
    pynvml.nvmlComputeInstanceDestroy(compute)


def test_nothing_is_created_while_mig_mode_is_off(gpu: Any, faults: Faults) -> None:
    faults.set_mig_mode(0, current=0, pending=1)
    assert pynvml.nvmlDeviceGetMigMode(gpu) == [0, 1]
    assert pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu) == 0
    place = pynvml.c_nvmlGpuInstancePlacement_t(0, 4)
    with refused(pynvml.NVML_ERROR_NOT_SUPPORTED):
        pynvml.nvmlDeviceCreateGpuInstanceWithPlacement(gpu, 9, byref(place))


def test_placements_can_be_asked_for_while_mig_mode_is_off_and_names_cannot(gpu: Any, faults: Faults) -> None:
    faults.set_mig_mode(0, current=0, pending=0)
    assert starts(gpu, 9) == ((0, 4), 4)
    assert pynvml.nvmlDeviceGetGpuInstanceProfileInfo(gpu, 2, version=1).sliceCount == 3
    with refused(pynvml.NVML_ERROR_NOT_SUPPORTED):
        pynvml.nvmlDeviceGetGpuInstanceProfileInfo(gpu, 2, version=2)
    with refused(pynvml.NVML_ERROR_NOT_SUPPORTED):
        pynvml.nvmlDeviceGetGpuInstanceRemainingCapacity(gpu, 9)


def test_a_gpu_without_mig_says_so(faults: Faults) -> None:
    without = pynvml.nvmlDeviceGetHandleByIndex(2)
    with refused(pynvml.NVML_ERROR_NOT_SUPPORTED):
        pynvml.nvmlDeviceGetMigMode(without)
    assert offered(without) == {}


def test_profiles_and_ids_that_never_were_are_refused(gpu: Any) -> None:
    with refused(pynvml.NVML_ERROR_INVALID_ARGUMENT):
        pynvml.nvmlDeviceGetGpuInstanceProfileInfo(gpu, pynvml.NVML_GPU_INSTANCE_PROFILE_COUNT, version=2)
    with refused(pynvml.NVML_ERROR_INVALID_ARGUMENT):
        pynvml.nvmlDeviceGetGpuInstanceRemainingCapacity(gpu, 14_000)
    with refused(pynvml.NVML_ERROR_NOT_FOUND):
        pynvml.nvmlDeviceGetGpuInstanceById(gpu, 3)


def test_an_array_too_short_for_the_profile_is_refused(gpu: Any) -> None:
    with refused(pynvml.NVML_ERROR_INVALID_ARGUMENT):
        pynvml.nvmlDeviceGetGpuInstances(gpu, 19, (pynvml.c_nvmlGpuInstance_t * 6)(), byref(ctypes.c_uint()))


def test_compute_instances_share_the_slices_of_their_gpu_instance(gpu: Any) -> None:
    instance = create(gpu, "3g.20gb", 0)
    fill(instance, 2)
    with refused(pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES):
        fill(instance, 2)
    with refused(pynvml.NVML_ERROR_NOT_SUPPORTED):
        fill(instance, 4)
    fill(instance, 1)
    assert pynvml.nvmlGpuInstanceGetComputeInstanceRemainingCapacity(instance, 0) == 0
