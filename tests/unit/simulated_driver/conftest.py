"""GPUs of the simulated driver, and the calls of NVML that the tests make."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import byref
from pathlib import Path
from typing import Any

import pynvml
import pytest

from tests.fakes.driver import simulated_driver
from tests.fakes.faults import Faults

CREATE = "nvmlDeviceCreateGpuInstanceWithPlacement"


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
