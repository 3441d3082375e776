"""The C functions of GPU performance monitoring (GPM), which Hopper and later GPUs have.

A sample belongs to the process that allocated it, so it is not a part of the shared state.
"""

import ctypes
import itertools
import time
from dataclasses import dataclass
from typing import Any

import pynvml

from gateway.simulation.c_interface import c_function, gpu_index, number, put_fields, target
from gateway.simulation.gpu import RefusedError, SimulatedGpu
from gateway.simulation.machine import Machine

_LEAST_SECONDS = 0.1  # between two samples
_SIXTEEN = 16  # real buffers are aligned

_Owner = tuple[int, int]  # the GPU, and the serial number of the instance; 0 for the whole GPU


@dataclass(slots=True)
class _Sample:
    """`owner` is None before the first use. `busy` is the percentage of time at work."""

    owner: _Owner | None = None
    busy: float = 0.0
    taken_at: float = 0.0


_samples: dict[int, _Sample] = {}
_addresses = itertools.count(_SIXTEEN, _SIXTEEN)


@c_function("nvmlGpmQueryDeviceSupport")
def query_device_support(machine: Machine, device: Any, support: Any) -> None:
    gpu = machine.gpus[gpu_index(machine, device)]
    if target(support).version != pynvml.NVML_GPM_SUPPORT_VERSION:
        raise RefusedError(pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH)
    put_fields(support, isSupportedDevice=int(gpu.kind.has_gpm))


@c_function("nvmlGpmSampleAlloc")
def sample_alloc(_machine: Machine, sample: Any) -> None:
    address = next(_addresses)
    _samples[address] = _Sample()
    ctypes.c_void_p.from_buffer(target(sample)).value = address


@c_function("nvmlGpmSampleFree")
def sample_free(_machine: Machine, sample: Any) -> None:
    _sample(sample)
    del _samples[_address(sample)]


@c_function("nvmlGpmSampleGet")
def sample_get(machine: Machine, device: Any, sample: Any) -> None:
    """The whole GPU has no sample while it is divided."""
    index = gpu_index(machine, device)
    gpu = _supported(machine.gpus[index])
    if gpu.mig_current == pynvml.NVML_DEVICE_MIG_ENABLE:
        raise RefusedError(pynvml.NVML_ERROR_NOT_SUPPORTED)
    _fill(sample, (index, 0), gpu.busy)


@c_function("nvmlGpmMigSampleGet")
def mig_sample_get(machine: Machine, device: Any, gi_id: Any, sample: Any) -> None:
    """`device` is the GPU, not the MIG device."""
    index = gpu_index(machine, device)
    gpu = _supported(machine.gpus[index])
    gpu.require_mig()
    for instance in gpu.instances:
        if instance.id == number(gi_id):
            return _fill(sample, (index, instance.serial), instance.busy)
    raise RefusedError(pynvml.NVML_ERROR_INVALID_ARGUMENT)


@c_function("nvmlGpmMetricsGet")
def metrics_get(_machine: Machine, metrics: Any) -> None:
    """The value is what the second sample found. Each metric has a return code of its own."""
    wanted = target(metrics)
    if wanted.version != pynvml.NVML_GPM_METRICS_GET_VERSION:
        raise RefusedError(pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH)
    first, second = _sample(wanted.sample1), _sample(wanted.sample2)
    if first.owner is None or first.owner != second.owner:
        raise RefusedError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
    for metric in wanted.metrics[: wanted.numMetrics]:
        if second.taken_at - first.taken_at < _LEAST_SECONDS:
            metric.nvmlReturn, metric.value = pynvml.NVML_ERROR_NO_DATA, float("nan")
        elif metric.metricId != pynvml.NVML_GPM_METRIC_GRAPHICS_UTIL:
            metric.nvmlReturn, metric.value = pynvml.NVML_ERROR_NOT_SUPPORTED, float("nan")
        else:
            metric.nvmlReturn, metric.value = pynvml.NVML_SUCCESS, second.busy


def _supported(gpu: SimulatedGpu) -> SimulatedGpu:
    if not gpu.kind.has_gpm:
        raise RefusedError(pynvml.NVML_ERROR_NOT_SUPPORTED)
    return gpu


def _fill(sample: Any, owner: _Owner, busy: float) -> None:
    found = _sample(sample)
    found.owner, found.busy, found.taken_at = owner, busy, time.monotonic()


def _sample(pointer: Any) -> _Sample:
    """A real driver would read freed memory; this one refuses."""
    found = _samples.get(_address(pointer))
    if found is None:
        raise RefusedError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
    return found


def _address(pointer: Any) -> int:
    return ctypes.cast(pointer, ctypes.c_void_p).value or 0
