"""How busy each slice is, from NVIDIA's dcgm-exporter. NVML has no such meter for the slices of an A100."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib import request

from prometheus_client.parser import text_string_to_metric_families

_METRIC = "DCGM_FI_PROF_GR_ENGINE_ACTIVE"
_SECONDS, _LARGEST, _FRESH_SECONDS = 3.0, 8 * 1024 * 1024, 15.0

Slice = tuple[str, int]  # the UUID of the GPU, and the id of the GPU instance


@dataclass
class DcgmExporter:
    """`url` is that of its /metrics. What it does not say is unknown."""

    url: str
    _read: Mapping[Slice, float] = field(default_factory=dict, init=False)
    _read_at: float = field(default=float("-inf"), init=False)

    def busy(self, gpu_uuid: str, gi_id: int) -> float | None:
        """Return the part of the time in which the slice worked; None if that is unknown."""
        if time.monotonic() - self._read_at > _FRESH_SECONDS:
            self._read, self._read_at = self._ask(), time.monotonic()
        return self._read.get((gpu_uuid, gi_id))

    def _ask(self) -> Mapping[Slice, float]:
        opener = request.build_opener(request.ProxyHandler({}))
        try:
            with opener.open(self.url, timeout=_SECONDS) as response:
                return _parse(response.read(_LARGEST).decode())
        except (OSError, ValueError):
            return {}


def _parse(text: str) -> Mapping[Slice, float]:
    samples = (
        sample
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == _METRIC and sample.labels.get("GPU_I_ID", "").isdecimal()
    )
    return {
        (sample.labels.get("UUID", ""), int(sample.labels["GPU_I_ID"])): float(sample.value)
        for sample in samples
    }
