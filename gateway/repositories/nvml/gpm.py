"""How busy slices are, by NVML's GPU performance monitoring (GPM): Hopper and later GPUs have it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pynvml

# The driver needs 0.1 s between two samples. An old one would dilute what began after it.
_LEAST_SECONDS, _MOST_SECONDS = 0.1, 900.0

_ABSENT = (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound)


@dataclass(frozen=True, slots=True)
class _Sample:
    buffer: Any
    taken_at: float


@dataclass
class Gpm:
    """Keeps the last sample of each device, so that a measurement covers the time since the one before."""

    clock: Callable[[], float] = time.monotonic
    _samples: dict[str, _Sample] = field(default_factory=dict, init=False)

    def forget(self) -> None:
        """Forget the samples of a process that this one was forked from."""
        self._samples.clear()

    def busy(self, uuid: str, device: Any) -> float | None:
        """Return the part of the time since the last call in which the slice, or the whole GPU, worked. None
        if the GPU has no such meter, and at the first call. Raises pynvml's errors."""
        try:
            now = self._take(device)
        except _ABSENT:
            return None
        before = self._samples.pop(uuid, None)
        self._samples[uuid] = now
        try:
            return _worked(before, now) if before else None
        finally:
            if before:
                pynvml.nvmlGpmSampleFree(before.buffer)
            self._discard_old(now.taken_at)

    def _take(self, device: Any) -> _Sample:
        is_slice = pynvml.nvmlDeviceIsMigDeviceHandle(device)
        gpu = pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(device) if is_slice else device
        if not pynvml.nvmlGpmQueryDeviceSupport(gpu).isSupportedDevice:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        buffer = pynvml.nvmlGpmSampleAlloc()
        try:
            if is_slice:
                pynvml.nvmlGpmMigSampleGet(gpu, pynvml.nvmlDeviceGetGpuInstanceId(device), buffer)
            else:
                pynvml.nvmlGpmSampleGet(gpu, buffer)
        except pynvml.NVMLError:
            pynvml.nvmlGpmSampleFree(buffer)
            raise
        return _Sample(buffer, self.clock())

    def _discard_old(self, now: float) -> None:
        old = [uuid for uuid, each in self._samples.items() if now - each.taken_at > _MOST_SECONDS]
        for uuid in old:
            pynvml.nvmlGpmSampleFree(self._samples.pop(uuid).buffer)


def _worked(before: _Sample, now: _Sample) -> float | None:
    if not _LEAST_SECONDS < now.taken_at - before.taken_at <= _MOST_SECONDS:
        return None
    wanted = pynvml.c_nvmlGpmMetricsGet_t()
    wanted.version, wanted.numMetrics = pynvml.NVML_GPM_METRICS_GET_VERSION, 1
    wanted.sample1, wanted.sample2 = before.buffer, now.buffer
    wanted.metrics[0].metricId = pynvml.NVML_GPM_METRIC_GRAPHICS_UTIL
    found = pynvml.nvmlGpmMetricsGet(wanted).metrics[0]
    percent = float(found.value)
    # NaN fails both comparisons.
    is_known = found.nvmlReturn == pynvml.NVML_SUCCESS and 0 <= percent <= 100
    return percent / 100 if is_known else None
