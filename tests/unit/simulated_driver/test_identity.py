"""UUIDs, ids and handles of GPUs, GPU instances and MIG devices."""

import re
from typing import Any

import pynvml
import pytest

from tests.fakes.faults import Faults
from tests.unit.simulated_driver.conftest import create, fill, gi_id, mig_uuid, refused


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
