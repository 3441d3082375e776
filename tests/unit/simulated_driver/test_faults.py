"""Faults that a test injects."""

import ctypes
from collections.abc import Callable
from ctypes import byref
from pathlib import Path
from typing import Any

import pynvml
import pytest

from gateway.simulation.machine import Fault
from tests.fakes.driver import simulated_driver
from tests.fakes.faults import Faults
from tests.unit.simulated_driver.conftest import CREATE, create, fill, gi_id, refused, room

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
