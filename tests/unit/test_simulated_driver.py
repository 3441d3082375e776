"""Drives nvidia-ml-py over the simulated driver: the tables, and what hardware refuses."""

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ctypes import byref
from pathlib import Path
from typing import Any

import pynvml
import pytest

from gateway import simulation
from gateway.errors import StartRefused
from gateway.simulation.catalogue import KINDS, parse_spec
from gateway.simulation.machine import Fault
from gateway.simulation.store import Store
from tests.fakes.driver import simulated_driver, unload
from tests.fakes.faults import Faults

CREATE = "nvmlDeviceCreateGpuInstanceWithPlacement"

# name: (NVML constant, driver id, starts, size, most on an empty GPU, compute slices, MiB)
Table = dict[str, tuple[int, int, tuple[int, ...], int, int, int, int]]
SEVEN = (0, 1, 2, 3, 4, 5, 6)
A100_40: Table = {
    "1g.5gb": (0, 19, SEVEN, 1, 7, 1, 4864),
    "2g.10gb": (1, 14, (0, 2, 4), 2, 3, 2, 9856),
    "3g.20gb": (2, 9, (0, 4), 4, 2, 3, 19968),
    "4g.20gb": (3, 5, (0,), 4, 1, 4, 19968),
    "7g.40gb": (4, 0, (0,), 8, 1, 7, 40192),
    "1g.5gb+me": (7, 20, SEVEN, 1, 1, 1, 4864),
    "1g.10gb": (9, 15, (0, 2, 4, 6), 2, 4, 1, 9856),
}
A100_80: Table = {
    "1g.10gb": (0, 19, SEVEN, 1, 7, 1, 9856),
    "2g.20gb": (1, 14, (0, 2, 4), 2, 3, 2, 19968),
    "3g.40gb": (2, 9, (0, 4), 4, 2, 3, 40192),
    "4g.40gb": (3, 5, (0,), 4, 1, 4, 40192),
    "7g.80gb": (4, 0, (0,), 8, 1, 7, 80384),
    "1g.10gb+me": (7, 20, SEVEN, 1, 1, 1, 9856),
    "1g.20gb": (9, 15, (0, 2, 4, 6), 2, 4, 1, 19968),
}
A30: Table = {
    "1g.6gb": (0, 14, (0, 1, 2, 3), 1, 4, 1, 5952),
    "2g.12gb": (1, 5, (0, 2), 2, 2, 2, 11968),
    "4g.24gb": (3, 0, (0,), 4, 1, 4, 24000),
    "1g.6gb+me": (7, 21, (0, 1, 2, 3), 1, 1, 1, 5952),
    "2g.12gb+me": (8, 6, (0, 2), 2, 1, 2, 11968),
}
RTX: Table = {
    "1g.24gb": (0, 14, (0, 3, 6, 9), 3, 4, 1, 24192),
    "2g.48gb": (1, 5, (0, 6), 6, 2, 2, 48512),
    "4g.96gb": (3, 0, (0,), 12, 1, 4, 97280),
    "1g.24gb+me": (7, 21, (0, 3, 6, 9), 3, 1, 1, 24192),
    "1g.24gb+gfx": (0xA, 47, (0, 3, 6, 9), 3, 4, 1, 24192),
    "2g.48gb+gfx": (0xB, 35, (0, 6), 6, 2, 2, 48512),
    "4g.96gb+gfx": (0xC, 32, (0,), 12, 1, 4, 97280),
    "1g.24gb-me": (0xD, 67, (0, 3, 6, 9), 3, 4, 1, 24192),
    "2g.48gb-me": (0xE, 66, (0, 6), 6, 2, 2, 48512),
    "1g.24gb+me.all": (0xF, 65, (0, 3, 6, 9), 3, 1, 1, 24192),
    "2g.48gb+me.all": (0x10, 64, (0, 6), 6, 1, 2, 48512),
}
TABLES = {"A100-40GB": A100_40, "A100-80GB": A100_80, "A30": A30, "RTX-PRO-6000": RTX}
# In the order of the A100 tables above, which these kinds are cut like.
NAMES = {
    "H100-80GB": "1g.10gb 2g.20gb 3g.40gb 4g.40gb 7g.80gb 1g.10gb+me 1g.20gb",
    "H100-94GB": "1g.12gb 2g.24gb 3g.47gb 4g.47gb 7g.94gb 1g.12gb+me 1g.24gb",
    "H100-96GB": "1g.12gb 2g.24gb 3g.48gb 4g.48gb 7g.96gb 1g.12gb+me 1g.24gb",
    "H200-141GB": "1g.18gb 2g.35gb 3g.71gb 4g.71gb 7g.141gb 1g.18gb+me 1g.35gb",
    "B200-180GB": "1g.23gb 2g.45gb 3g.90gb 4g.90gb 7g.180gb 1g.23gb+me 1g.45gb",
}
# Decoders, encoders, JPEG decoders and optical flow accelerators of each profile, as in the tables above.
AMPERE = ["0000", "1000", "2000", "2000", "5011", "1011", "1000"]
HOPPER = ["1010", "2020", "3030", "4040", "7071", "1011", "1010"]
ENGINES = {
    "A100-40GB": AMPERE,
    "A100-80GB": AMPERE,
    "A30": ["0000", "2000", "4011", "1011", "2011"],
    "H100-80GB": HOPPER,
    "H100-94GB": HOPPER,
    "H100-96GB": HOPPER,
    "H200-141GB": HOPPER,
    "B200-180GB": ["1010", "1010", "1010", "1010", "1011", "1011", "1010"],
    "RTX-PRO-6000": "1110 2220 4441 1111 1110 2220 4441 0000 0000 4441 4441".split(),
}


@pytest.fixture
def state_file(tmp_path: Path) -> Path:
    return tmp_path / "simulated-gpus.json"


@contextmanager
def driver(spec: str, state_file: Path) -> Iterator[Faults]:
    with simulated_driver(spec, state_file) as faults:
        pynvml.nvmlInit()
        yield faults


@pytest.fixture
def faults(state_file: Path) -> Iterator[Faults]:
    """Of two A100s and a GPU without MIG."""
    with driver("2xA100-40GB,1xL4", state_file) as switches:
        yield switches


@pytest.fixture
def gpu(faults: Faults) -> Any:
    return pynvml.nvmlDeviceGetHandleByIndex(0)


@contextmanager
def refused(code: int) -> Iterator[None]:
    with pytest.raises(pynvml.NVMLError) as caught:
        yield
    assert caught.value.value == code


def offered(gpu: Any) -> dict[str, Any]:
    """The device's profiles by name, asked for by constant."""
    found = {}
    for constant in range(pynvml.NVML_GPU_INSTANCE_PROFILE_COUNT):
        try:
            info = pynvml.nvmlDeviceGetGpuInstanceProfileInfo(gpu, constant, version=2)
        except pynvml.NVMLError_NotSupported:
            continue
        found[info.name.removeprefix("MIG ")] = (constant, info)
    return found


def starts(gpu: Any, driver_id: int) -> tuple[tuple[int, ...], int]:
    count = ctypes.c_uint()
    pynvml.nvmlDeviceGetGpuInstancePossiblePlacements(gpu, driver_id, None, byref(count))
    places = (pynvml.c_nvmlGpuInstancePlacement_t * count.value)()
    pynvml.nvmlDeviceGetGpuInstancePossiblePlacements(gpu, driver_id, places, byref(count))
    (size,) = {place.size for place in places}
    return tuple(place.start for place in places), size


def table(gpu: Any) -> Table:
    return {
        name: (
            constant,
            info.id,
            *starts(gpu, info.id),
            info.instanceCount,
            info.sliceCount,
            info.memorySizeMB,
        )
        for name, (constant, info) in offered(gpu).items()
    }


def create(gpu: Any, name: str, start: int) -> Any:
    info = offered(gpu)[name][1]
    place = pynvml.c_nvmlGpuInstancePlacement_t(start, starts(gpu, info.id)[1])
    return pynvml.nvmlDeviceCreateGpuInstanceWithPlacement(gpu, info.id, byref(place))


def fill(instance: Any, slices: int) -> Any:
    """A compute instance of as many slices; its profiles' constants up to four are one less."""
    info = pynvml.nvmlGpuInstanceGetComputeInstanceProfileInfo(instance, slices - 1, 0)
    return pynvml.nvmlGpuInstanceCreateComputeInstance(instance, info.id)


def mig_uuid(compute: Any) -> str:
    return str(pynvml.nvmlDeviceGetUUID(pynvml.nvmlComputeInstanceGetInfo_v2(compute).device))


def gi_id(instance: Any) -> int:
    return int(pynvml.nvmlGpuInstanceGetInfo(instance).id)


def room(gpu: Any) -> dict[str, int]:
    """Profiles that can still be created, and how often."""
    left = {
        name: pynvml.nvmlDeviceGetGpuInstanceRemainingCapacity(gpu, info.id)
        for name, (_, info) in offered(gpu).items()
    }
    return {name: count for name, count in left.items() if count}


# The tables


@pytest.mark.parametrize("kind", TABLES)
def test_a_gpu_offers_exactly_the_profiles_of_its_kind(kind: str, state_file: Path) -> None:
    with driver(f"1x{kind}", state_file):
        assert table(pynvml.nvmlDeviceGetHandleByIndex(0)) == TABLES[kind]


@pytest.mark.parametrize("kind", NAMES)
def test_seven_slice_gpus_are_cut_alike_and_named_by_their_memory(kind: str, state_file: Path) -> None:
    with driver(f"1x{kind}", state_file):
        found = table(pynvml.nvmlDeviceGetHandleByIndex(0))
    assert list(found) == NAMES[kind].split()
    assert [row[:6] for row in found.values()] == [row[:6] for row in A100_40.values()]


@pytest.mark.parametrize("kind", [*TABLES, *NAMES])
def test_an_empty_gpu_has_room_for_as_many_as_each_profile_says(kind: str, state_file: Path) -> None:
    with driver(f"1x{kind}", state_file):
        gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
        assert room(gpu) == {name: info.instanceCount for name, (_, info) in offered(gpu).items()}


@pytest.mark.parametrize("kind", ENGINES)
def test_each_profile_takes_its_media_engines(kind: str, state_file: Path) -> None:
    with driver(f"1x{kind}", state_file):
        found = offered(pynvml.nvmlDeviceGetHandleByIndex(0)).values()
    engines = [(info.decoderCount, info.encoderCount, info.jpegCount, info.ofaCount) for _, info in found]
    assert ["".join(map(str, counts)) for counts in engines] == ENGINES[kind]


def test_names_carry_the_drivers_prefix(gpu: Any) -> None:
    assert pynvml.nvmlDeviceGetGpuInstanceProfileInfo(gpu, 2, version=2).name == "MIG 3g.20gb"


def test_a_profile_is_found_by_its_id_too(gpu: Any) -> None:
    assert pynvml.nvmlDeviceGetGpuInstanceProfileInfoById(gpu, 9).name == "MIG 3g.20gb"


def test_the_same_driver_id_is_another_profile_on_another_kind(state_file: Path) -> None:
    with driver("1xA100-40GB,1xA30", state_file):
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in (0, 1)]
        names = [pynvml.nvmlDeviceGetGpuInstanceProfileInfoById(handle, 14).name for handle in handles]
    assert names == ["MIG 2g.10gb", "MIG 1g.6gb"]


# What hardware refuses


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
    for start in SEVEN:
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


# Identity


def test_ids_are_used_again_the_lowest_first(gpu: Any) -> None:
    instances = [create(gpu, "1g.5gb", start) for start in range(4)]
    assert [gi_id(instance) for instance in instances] == [0, 1, 2, 3]
    for index in (2, 0):
        pynvml.nvmlGpuInstanceDestroy(instances[index])
    assert [gi_id(create(gpu, "1g.5gb", start)) for start in (5, 6)] == [0, 2]


def test_a_mig_uuid_is_new_at_each_creation(gpu: Any) -> None:
    instance = create(gpu, "1g.5gb", 0)
    uuids = set()
    for _ in range(3):
        compute = fill(instance, 1)
        uuids.add(mig_uuid(compute))
        assert pynvml.nvmlComputeInstanceGetInfo_v2(compute).id == 0
        pynvml.nvmlComputeInstanceDestroy(compute)
    assert len(uuids) == 3
    assert all(re.fullmatch(r"MIG-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", uuid) for uuid in uuids)


def test_a_stale_handle_does_not_reach_the_next_of_the_same_id(gpu: Any) -> None:
    stale = create(gpu, "1g.5gb", 0)
    pynvml.nvmlGpuInstanceDestroy(stale)
    create(gpu, "1g.5gb", 0)
    with refused(pynvml.NVML_ERROR_INVALID_ARGUMENT):
        pynvml.nvmlGpuInstanceDestroy(stale)


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_INVALID_ARGUMENT, pynvml.NVML_ERROR_NOT_FOUND])
def test_every_call_for_something_that_is_gone_answers_so(gpu: Any, faults: Faults, code: int) -> None:
    instance = create(gpu, "2g.10gb", 0)
    compute = fill(instance, 2)
    device = pynvml.nvmlComputeInstanceGetInfo_v2(compute).device
    pynvml.nvmlComputeInstanceDestroy(compute)
    pynvml.nvmlGpuInstanceDestroy(instance)
    faults.answer_vanished(code)
    for name, handle, arguments in [
        ("nvmlGpuInstanceGetInfo", instance, ()),
        ("nvmlGpuInstanceDestroy", instance, ()),
        ("nvmlGpuInstanceGetComputeInstanceById", instance, (0,)),
        ("nvmlGpuInstanceGetComputeInstanceProfileInfo", instance, (1, 0)),
        ("nvmlGpuInstanceGetComputeInstanceRemainingCapacity", instance, (1,)),
        ("nvmlGpuInstanceCreateComputeInstance", instance, (1,)),
        ("nvmlComputeInstanceGetInfo_v2", compute, ()),
        ("nvmlComputeInstanceDestroy", compute, ()),
        ("nvmlDeviceGetUUID", device, ()),
        ("nvmlDeviceGetName", device, ()),
        ("nvmlDeviceGetMemoryInfo", device, ()),
        ("nvmlDeviceGetGpuInstanceId", device, ()),
        ("nvmlDeviceGetComputeInstanceId", device, ()),
        ("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", device, ()),
    ]:
        with refused(code):
            getattr(pynvml, name)(handle, *arguments)


def test_a_gpu_instance_without_a_compute_instance_is_no_mig_device(gpu: Any) -> None:
    create(gpu, "1g.5gb", 0)
    with refused(pynvml.NVML_ERROR_NOT_FOUND):
        pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 0)


def test_a_mig_device_knows_its_parent_and_its_ids(gpu: Any) -> None:
    create(gpu, "1g.5gb", 0)
    compute = fill(create(gpu, "2g.10gb", 2), 2)
    device = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 0)
    parent = pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(device)
    assert pynvml.nvmlDeviceGetUUID(device) == mig_uuid(compute)
    assert pynvml.nvmlDeviceGetUUID(parent) == pynvml.nvmlDeviceGetUUID(gpu)
    assert pynvml.nvmlDeviceGetGpuInstanceId(device) == 1
    assert pynvml.nvmlDeviceGetComputeInstanceId(device) == 0
    assert pynvml.nvmlDeviceIsMigDeviceHandle(device).value == 1
    assert pynvml.nvmlDeviceGetName(device) == "NVIDIA A100-SXM4-40GB MIG 2g.10gb"
    assert pynvml.nvmlDeviceGetMemoryInfo(device).total == 9856 * 1024 * 1024


def test_gpus_and_mig_devices_are_found_by_uuid(gpu: Any) -> None:
    uuid = mig_uuid(fill(create(gpu, "1g.5gb", 0), 1))
    assert pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByUUID(uuid)) == uuid
    parent = pynvml.nvmlDeviceGetUUID(gpu)
    assert pynvml.nvmlDeviceGetIndex(pynvml.nvmlDeviceGetHandleByUUID(parent)) == 0
    with refused(pynvml.NVML_ERROR_NOT_FOUND):
        pynvml.nvmlDeviceGetHandleByUUID("GPU-none")


def test_a_handle_of_another_sort_is_refused(gpu: Any) -> None:
    with refused(pynvml.NVML_ERROR_INVALID_ARGUMENT):
        pynvml.nvmlDeviceGetMigMode(create(gpu, "1g.5gb", 0))
    with refused(pynvml.NVML_ERROR_INVALID_ARGUMENT):
        pynvml.nvmlGpuInstanceDestroy(gpu)


# Processes


def test_nothing_works_before_init_or_after_shutdown(state_file: Path) -> None:
    with simulated_driver("1xA30", state_file):
        with refused(pynvml.NVML_ERROR_UNINITIALIZED):
            pynvml.nvmlDeviceGetCount()
        pynvml.nvmlInit()
        assert pynvml.nvmlDeviceGetCount() == 1
        pynvml.nvmlShutdown()
        with refused(pynvml.NVML_ERROR_UNINITIALIZED):
            pynvml.nvmlDeviceGetCount()


def test_a_forked_child_must_initialise_for_itself(faults: Faults) -> None:
    child = os.fork()
    if not child:
        os._exit(_count_code())
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == pynvml.NVML_ERROR_UNINITIALIZED


def _count_code() -> int:
    try:
        pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError as error:
        return int(error.value)
    return 0


def test_processes_share_one_state(gpu: Any, state_file: Path) -> None:
    uuid = mig_uuid(fill(create(gpu, "1g.5gb", 3), 1))
    script = f"""
import pynvml
from gateway import simulation
from pathlib import Path
simulation.install("2xa100-40gb, 1xl4", Path({str(state_file)!r}))
pynvml.nvmlInit()
device = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(pynvml.nvmlDeviceGetHandleByIndex(0), 0)
print(pynvml.nvmlDeviceGetUUID(device))
"""
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == uuid


def test_a_process_killed_at_any_moment_leaves_a_state_that_hangs_together(state_file: Path) -> None:
    script = f"""
import pynvml, random
from ctypes import byref
from gateway import simulation
from pathlib import Path
simulation.install("1xA100-40GB", Path({str(state_file)!r}))
pynvml.nvmlInit()
gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
print("ready", flush=True)
while True:
    try:
        place = pynvml.c_nvmlGpuInstancePlacement_t(random.randrange(7), 1)
        instance = pynvml.nvmlDeviceCreateGpuInstanceWithPlacement(gpu, 19, byref(place))
        compute = pynvml.nvmlGpuInstanceCreateComputeInstance(instance, 0)
        pynvml.nvmlComputeInstanceDestroy(compute)
        pynvml.nvmlGpuInstanceDestroy(instance)
    except pynvml.NVMLError_InsufficientResources:
        pass
    print("turn", flush=True)
"""
    with driver("1xA100-40GB", state_file):
        gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
        for turns in range(5):
            _run_and_kill(script, turns)
            (machine,) = Store(state_file).read().gpus
            taken = [instance.start for instance in machine.instances]
            assert len(taken) == len(set(taken))
            assert room(gpu).get("1g.5gb", 0) == 7 - len(taken)
            for instance in machine.instances:
                _destroy_by_id(gpu, instance.id)


def _run_and_kill(script: str, turns: int) -> None:
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for _ in range(1 + 3 * turns):
            assert process.stdout.readline()
        process.send_signal(signal.SIGKILL)


def _destroy_by_id(gpu: Any, instance_id: int) -> None:
    instance = pynvml.nvmlDeviceGetGpuInstanceById(gpu, instance_id)
    with suppress(pynvml.NVMLError_NotFound):
        pynvml.nvmlComputeInstanceDestroy(pynvml.nvmlGpuInstanceGetComputeInstanceById(instance, 0))
    pynvml.nvmlGpuInstanceDestroy(instance)


# Faults

EVERY_CODE = [
    pynvml.NVML_ERROR_IN_USE,
    pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES,
    pynvml.NVML_ERROR_NOT_SUPPORTED,
    pynvml.NVML_ERROR_NO_PERMISSION,
    pynvml.NVML_ERROR_NOT_FOUND,
    pynvml.NVML_ERROR_GPU_IS_LOST,
    pynvml.NVML_ERROR_RESET_REQUIRED,
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
]


@pytest.mark.parametrize("code", EVERY_CODE)
def test_a_named_call_fails_as_often_as_told(code: int, gpu: Any, faults: Faults) -> None:
    faults.inject(Fault(CREATE, code, times=2))
    for _ in range(2):
        with refused(code):
            create(gpu, "3g.20gb", 0)
    create(gpu, "3g.20gb", 0)


def test_a_fault_lasts_until_it_is_cleared(faults: Faults) -> None:
    faults.inject(Fault("*", pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH))
    for _ in range(3):
        with refused(pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH):
            pynvml.nvmlDeviceGetCount()
    faults.clear()
    assert pynvml.nvmlDeviceGetCount() == 3


def test_nvml_init_can_fail(state_file: Path) -> None:
    with simulated_driver("1xA30", state_file) as faults:
        faults.inject(Fault("nvmlInitWithFlags", pynvml.NVML_ERROR_DRIVER_NOT_LOADED))
        with refused(pynvml.NVML_ERROR_DRIVER_NOT_LOADED):
            pynvml.nvmlInit()
        faults.clear()
        pynvml.nvmlInit()


def test_a_create_can_succeed_after_its_time_out(gpu: Any, faults: Faults) -> None:
    faults.inject(Fault(CREATE, pynvml.NVML_ERROR_TIMEOUT, effect=True, delay=0.01))
    with refused(pynvml.NVML_ERROR_TIMEOUT):
        create(gpu, "7g.40gb", 0)
    assert room(gpu) == {}


def test_a_call_can_be_slow_and_right(gpu: Any, faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("gateway.simulation.driver.time.sleep", slept.append)
    faults.inject(Fault("nvmlDeviceGetCount_v2", delay=10, times=1))
    assert pynvml.nvmlDeviceGetCount() == 3
    assert slept == [10]


def test_a_destroy_can_report_success_and_leave_everything(gpu: Any, faults: Faults) -> None:
    instance = create(gpu, "3g.20gb", 0)
    faults.inject(Fault("nvmlGpuInstanceDestroy", pynvml.NVML_SUCCESS))
    pynvml.nvmlGpuInstanceDestroy(instance)
    assert gi_id(instance) == 0


def test_another_program_makes_an_instance_wherever_it_fits(gpu: Any, faults: Faults) -> None:
    assert faults.stand(0, 9, 4)
    assert not faults.stand(0, 9, 4)
    [made] = faults.standing(0)
    assert (made.start, made.size, len(made.compute_instances)) == (4, 4, 1)
    assert listed(gpu, 9) == 1


def listed(gpu: Any, driver_id: int) -> int:
    count = ctypes.c_uint()
    pynvml.nvmlDeviceGetGpuInstances(gpu, driver_id, (pynvml.c_nvmlGpuInstance_t * 7)(), byref(count))
    return count.value


def test_a_list_can_be_empty_for_a_while_whatever_stands(gpu: Any, faults: Faults) -> None:
    create(gpu, "3g.20gb", 0)
    faults.list_nothing(times=2)
    assert [listed(gpu, 9) for _ in range(3)] == [0, 0, 1]
    assert room(gpu)["3g.20gb"] == 1


def test_a_create_can_succeed_long_after_its_time_out(gpu: Any, faults: Faults) -> None:
    faults.time_out(late=True)
    with refused(pynvml.NVML_ERROR_TIMEOUT):
        create(gpu, "7g.40gb", 0)
    assert listed(gpu, 0) == 0
    faults.finish_late()
    assert listed(gpu, 0) == 1


def test_what_comes_late_does_not_come_where_something_stands_or_after_a_reset(
    gpu: Any, faults: Faults
) -> None:
    faults.time_out(late=True, times=2)
    for start in (0, 4):
        with refused(pynvml.NVML_ERROR_TIMEOUT):
            create(gpu, "3g.20gb", start)
    create(gpu, "1g.5gb", 0)
    faults.finish_late()
    assert room(gpu) == {"1g.5gb": 3, "1g.5gb+me": 1, "1g.10gb": 1, "2g.10gb": 1}
    faults.reset(0)
    faults.finish_late()
    assert room(gpu)["7g.40gb"] == 1


def test_the_device_list_can_be_empty(faults: Faults) -> None:
    faults.hide_devices()
    assert pynvml.nvmlDeviceGetCount() == 0
    with refused(pynvml.NVML_ERROR_INVALID_ARGUMENT):
        pynvml.nvmlDeviceGetHandleByIndex(0)


def test_a_lost_gpu_refuses_everything_and_the_others_go_on(gpu: Any, faults: Faults) -> None:
    instance = create(gpu, "3g.20gb", 0)
    faults.lose(0, pynvml.NVML_ERROR_GPU_IS_LOST)
    assert pynvml.nvmlDeviceGetCount() == 3
    attempts: list[Callable[[], Any]] = [
        lambda: pynvml.nvmlDeviceGetHandleByIndex(0),
        lambda: pynvml.nvmlDeviceGetUUID(gpu),
        lambda: pynvml.nvmlDeviceGetMigMode(gpu),
        lambda: pynvml.nvmlGpuInstanceDestroy(instance),
    ]
    for attempt in attempts:
        with refused(pynvml.NVML_ERROR_GPU_IS_LOST):
            attempt()
    create(pynvml.nvmlDeviceGetHandleByIndex(1), "3g.20gb", 0)


def test_no_gpu_instance_survives_a_reset(gpu: Any, faults: Faults) -> None:
    fill(create(gpu, "3g.20gb", 0), 3)
    faults.reset(0)
    assert room(gpu)["7g.40gb"] == 1


def test_error_texts_come_from_the_driver(gpu: Any) -> None:
    with pytest.raises(pynvml.NVMLError, match="Insufficient resources"):
        raise pynvml.NVMLError(pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES)


def test_a_function_that_the_driver_lacks_is_not_found(gpu: Any) -> None:
    with refused(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND):
        pynvml.nvmlDeviceGetTemperature(gpu, 0)


# The setting


def test_a_specification_lists_kinds_in_order_whatever_their_case() -> None:
    assert [kind.name for kind in parse_spec("2xa100-40gb, 1XL4")] == ["A100-40GB", "A100-40GB", "L4"]


@pytest.mark.parametrize("spec", ["", "A100-40GB", "0xL4", "65xL4", "1xV100", "-1xL4", "1xL4,", "1 x L4"])
def test_a_specification_that_makes_no_sense_is_answered_with_the_kinds(spec: str, state_file: Path) -> None:
    with pytest.raises(StartRefused) as refusal:
        simulation.install(spec, state_file)
    assert all(kind in str(refusal.value) for kind in KINDS)
    assert not state_file.exists()


def test_no_more_gpus_than_can_be_simulated() -> None:
    with pytest.raises(StartRefused, match="is 65 GPUs; at most 64"):
        parse_spec("64xA30,1xL4")


def test_a_state_of_other_gpus_is_refused_and_left_alone(state_file: Path) -> None:
    with simulated_driver("2xA100-40GB,1xL4", state_file):
        before = state_file.read_bytes()
        with pytest.raises(StartRefused, match=r"is of 2xA100-40GB,1xL4, not 1xA30; .* remove that file"):
            simulation.install("1xA30", state_file)
    assert state_file.read_bytes() == before


@pytest.mark.parametrize("content", ["", "{", "[]", json.dumps({"gpus": [{"kind_name": "V100"}]})])
def test_a_file_that_is_no_state_is_refused_and_left_alone(content: str, state_file: Path) -> None:
    state_file.write_text(content)
    with pytest.raises(StartRefused, match="is not a state of simulated GPUs; remove it"):
        simulation.install("1xA30", state_file)
    assert state_file.read_text() == content


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartRefused, match="cannot be kept"):
        simulation.install("1xA30", tmp_path / "file" / "simulated-gpus.json")


def test_installing_again_forgets_the_functions_of_the_library_before(tmp_path: Path) -> None:
    for number, spec in enumerate(["1xA30", "3xL4"], start=1):
        simulation.install(spec, tmp_path / f"{number}.json")
        pynvml.nvmlInit()
    assert pynvml.nvmlDeviceGetCount() == 3
    unload()
