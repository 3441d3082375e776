"""The metrics that /metrics serves: names, kinds, labels, and the gauges of the GPUs. Pure.

`gpu`, `UUID`, `modelName`, `GPU_I_ID` and `GPU_I_PROFILE` are the labels of NVIDIA's dcgm-exporter, so that a
query can join its metrics with these.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from gateway.domain.availability import Availability
from gateway.domain.mig import Gpu
from gateway.domain.occupancy import Occupancy

PREFIX = "gpu_gateway_"


class Kind(StrEnum):
    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    name: str  # without the prefix, and without the `_total` of a counter
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """One value. `labels` are in the order of the metric."""

    metric: str
    labels: tuple[str, ...]
    value: float


_G, _C, _H = Kind.GAUGE, Kind.COUNTER, Kind.HISTOGRAM
_OF_GPU = ("gpu", "UUID", "modelName")

METRICS = (
    Metric("build_info", _G, "The version of the gateway; the value is 1.", ("version",)),
    Metric("sessions", _G, "Live sessions.", ("status", "mig_profile")),
    Metric(
        "session_info",
        _G,
        "The slice of a live session; the value is 1.",
        ("session_id", "user_id", "gpu", "UUID", "GPU_I_ID", "GPU_I_PROFILE", "mig_uuid"),
    ),
    Metric("session_expires_timestamp_seconds", _G, "When the lease of a session ends.", ("session_id",)),
    Metric("session_idle_seconds", _G, "How long nobody has used an idle session.", ("session_id",)),
    Metric(
        "memory_slices",
        _G,
        "Memory slices of a GPU: used by sessions, by others, free, or kept free by a cordon or a fault.",
        (*_OF_GPU, "state"),
    ),
    Metric("profile_available", _G, "Sessions of the profile that can begin now.", ("mig_profile",)),
    Metric("profile_capacity", _G, "Slices of the profile that fit without sessions.", ("mig_profile",)),
    Metric("part_ready", _G, "Whether a part of /readyz is ready.", ("part",)),
    Metric("reading_timestamp_seconds", _G, "When the GPUs and the parts were last read."),
    Metric("reaper_tick_timestamp_seconds", _G, "When the reaper last finished a tick."),
    Metric("waiting", _G, "Requests in the waiting line.", ("mig_profile",)),
    Metric("workspace_bytes", _G, "Size of a workspace at its last measurement.", ("user_id",)),
    Metric("open_seconds", _H, "Time from the record of a session until it is active."),
    Metric("wait_seconds", _H, "Time from a request that waits until its session is active."),
    Metric("opens", _C, "Sessions opened, failed, or refused for lack of room.", ("mig_profile", "result")),
    Metric("ends", _C, "Ended sessions.", ("reason",)),
    Metric("extends", _C, "Granted and refused extensions of leases.", ("result",)),
    Metric("warnings", _C, "Warnings, and whether a terminal got them.", ("kind", "delivered")),
    Metric("gpu_seconds", _C, "Seconds for which sessions held a slice.", ("mig_profile",)),
    Metric("webhook_deliveries", _C, "Attempts to deliver events to webhooks.", ("result",)),
    Metric("denied", _C, "Denials that the audit log has."),
    Metric("gpus_lost_inside", _C, "Sessions whose programs could not open their GPU any more."),
    Metric("closing_retries", _C, "Failed steps of closing sessions."),
)


@dataclass(frozen=True, slots=True)
class Reading:
    """What the leader read from the GPUs and the parts. `slices` has, by MIG UUID, the index of the GPU and
    the id of the GPU instance. `faults` has the faults of GPUs by UUID, None if the driver did not answer."""

    samples: tuple[Sample, ...]
    slices: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    faults: Mapping[str, str] | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "samples": [[sample.metric, list(sample.labels), sample.value] for sample in self.samples],
            "slices": {uuid: list(numbers) for uuid, numbers in self.slices.items()},
            "faults": None if self.faults is None else dict(self.faults),
        }

    @classmethod
    def of_json(cls, content: Mapping[str, Any]) -> "Reading":
        samples = (Sample(metric, tuple(labels), value) for metric, labels, value in content["samples"])
        slices = {uuid: (index, gi_id) for uuid, (index, gi_id) in content["slices"].items()}
        return cls(tuple(samples), slices, content["faults"])


def reading(availability: Availability | None, parts: Mapping[str, bool]) -> Reading:
    """Return the reading of these GPUs and parts. `availability` is None if the driver does not answer."""
    samples = [Sample("part_ready", (part,), float(ready)) for part, ready in parts.items()]
    if availability is None:
        return Reading(tuple(samples))
    occupancy = availability.occupancy
    samples += [sample for gpu in occupancy.gpus for sample in _memory_slices(occupancy, gpu)]
    for name in occupancy.offers():
        samples.append(Sample("profile_available", (name,), availability.available(name)))
        samples.append(Sample("profile_capacity", (name,), occupancy.capacity(name)))
    slices = {
        instance.mig_uuid: (gpu.index, instance.gi_id)
        for gpu in occupancy.gpus
        for instance in gpu.instances
        if instance.mig_uuid
    }
    slices |= {gpu.uuid: (gpu.index, -1) for gpu in occupancy.gpus if gpu.is_whole}
    faults = {gpu.uuid: f"GPU {gpu.index} {gpu.fault}" for gpu in occupancy.gpus if gpu.fault}
    return Reading(tuple(samples), slices, faults)


def _memory_slices(occupancy: Occupancy, gpu: Gpu) -> Iterator[Sample]:
    pieces = occupancy.occupied_of.get(gpu.uuid, ())
    used = sum(piece.placement.size for piece in pieces if piece.session_id)
    other = sum(piece.placement.size for piece in pieces if not piece.session_id)
    rest = max(0, gpu.memory_slices - used - other)
    state = "faulty" if gpu.fault else "cordoned" if gpu.uuid in occupancy.cordons else "free"
    numbers = {"used": used, "other": other, "free": 0, "cordoned": 0, "faulty": 0, state: rest}
    for name, number in numbers.items():
        yield Sample("memory_slices", (str(gpu.index), gpu.uuid, gpu.name, name), number)
