"""What the simulated hardware is and what it refuses; pure, and plain enough to be written as JSON.

Refusals are the codes that a real driver returns.
"""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby

import pynvml

from gateway.domain.mig import Placement
from gateway.simulation.catalogue import KINDS, Kind, KindProfile


class RefusedError(Exception):
    """A C call that returns `code` instead of NVML_SUCCESS."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass(slots=True)
class Fault:
    """The C function `call` (`*` is every one) sleeps for `delay` seconds, then reports `code` without
    doing anything; with `effect` it does its work all the same. A `code` of None leaves the work and the
    answer as they are; 0 with no effect is a success that was none. It happens `times` times, or until
    it is cleared."""

    call: str
    code: int | None = None
    effect: bool = False
    delay: float = 0.0
    times: int | None = None

    def hits(self, call: str) -> bool:
        return self.call in ("*", call) and self.times != 0


@dataclass(slots=True)
class ComputeInstance:
    """`profile` is an NVML_COMPUTE_INSTANCE_PROFILE_*: its value is its id too. `serial` is never used
    again, unlike `id`, so that a stale handle finds nothing."""

    id: int
    profile: int
    start: int
    size: int
    serial: int
    uuid: str


@dataclass(slots=True)
class GpuInstance:
    id: int
    profile: int
    start: int
    size: int
    serial: int
    holder: str | None = None
    compute_instances: list[ComputeInstance] = field(default_factory=list)

    @property
    def placement(self) -> Placement:
        return Placement(self.start, self.size)


@dataclass(slots=True)
class SimulatedGpu:
    kind_name: str
    uuid: str
    mig_current: int
    mig_pending: int
    lost: int = pynvml.NVML_SUCCESS
    instances: list[GpuInstance] = field(default_factory=list)

    @property
    def kind(self) -> Kind:
        return KINDS[self.kind_name]

    def require_mig(self) -> None:
        if not self.kind.profiles or self.mig_current != pynvml.NVML_DEVICE_MIG_ENABLE:
            raise RefusedError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    def profile(self, driver_id: int) -> KindProfile:
        self.require_mig()
        for profile in self.kind.profiles:
            if profile.driver_id == driver_id:
                return profile
        raise RefusedError(pynvml.NVML_ERROR_INVALID_ARGUMENT)

    def room_for(self, profile: KindProfile) -> list[Placement]:
        """Where `profile` fits now, lowest start first."""
        standing = [self.profile(instance.profile) for instance in self.instances]
        together = [*standing, profile]
        if (
            sum(one.compute_slices for one in together) > self.kind.compute_slices
            or sum(one.ofas for one in together) > self.kind.ofas
            or together.count(profile) > profile.max_instances
        ):
            return []
        places = (Placement(start, profile.size) for start in profile.starts)
        return [place for place in places if not any(place.overlaps(one.placement) for one in self.instances)]

    def remaining(self, profile: KindProfile) -> int:
        """How many more of `profile` could be created now."""
        trial = SimulatedGpu(self.kind_name, self.uuid, self.mig_current, self.mig_pending)
        trial.instances = list(self.instances)
        while room := trial.room_for(profile):
            trial.instances.append(GpuInstance(-1, profile.driver_id, room[0].start, room[0].size, 0))
        return len(trial.instances) - len(self.instances)

    def create(self, profile: KindProfile, placement: Placement | None, serial: int) -> GpuInstance:
        if placement and (placement.size != profile.size or placement.start not in profile.starts):
            raise RefusedError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        room = self.room_for(profile)
        if not room or (placement and placement not in room):
            raise RefusedError(pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES)
        place = placement or room[0]
        gi_id = _lowest_free(instance.id for instance in self.instances)
        instance = GpuInstance(gi_id, profile.driver_id, place.start, place.size, serial)
        self.instances.append(instance)
        return instance

    def destroy(self, instance: GpuInstance) -> None:
        if instance.compute_instances or instance.holder:
            raise RefusedError(pynvml.NVML_ERROR_IN_USE)
        self.instances.remove(instance)

    def create_compute(self, instance: GpuInstance, profile: int, serial: int) -> ComputeInstance:
        slices = self.compute_slices(instance, profile)
        total = self.profile(instance.profile).compute_slices
        starts = compute_room(total, slices, instance.compute_instances)
        if not starts:
            raise RefusedError(pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES)
        ci_id = _lowest_free(compute.id for compute in instance.compute_instances)
        compute = ComputeInstance(ci_id, profile, starts[0], slices, serial, f"MIG-{uuid.uuid4()}")
        instance.compute_instances.append(compute)
        return compute

    def destroy_compute(self, instance: GpuInstance, compute: ComputeInstance) -> None:
        if instance.holder:
            raise RefusedError(pynvml.NVML_ERROR_IN_USE)
        instance.compute_instances.remove(compute)

    def compute_slices(self, instance: GpuInstance, profile: int) -> int:
        """How many slices the compute instance profile spans, refused where `instance` is too small."""
        if profile not in range(pynvml.NVML_COMPUTE_INSTANCE_PROFILE_COUNT):
            raise RefusedError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        slices = COMPUTE_PROFILE_SLICES.get(profile, self.kind.compute_slices + 1)
        if slices > self.profile(instance.profile).compute_slices:
            raise RefusedError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return slices


COMPUTE_PROFILE_SLICES = {
    pynvml.NVML_COMPUTE_INSTANCE_PROFILE_1_SLICE: 1,
    pynvml.NVML_COMPUTE_INSTANCE_PROFILE_2_SLICE: 2,
    pynvml.NVML_COMPUTE_INSTANCE_PROFILE_3_SLICE: 3,
    pynvml.NVML_COMPUTE_INSTANCE_PROFILE_4_SLICE: 4,
    pynvml.NVML_COMPUTE_INSTANCE_PROFILE_7_SLICE: 7,
    # The same slice count once more, with engines of its own.
    pynvml.NVML_COMPUTE_INSTANCE_PROFILE_1_SLICE_REV1: 1,
}


def compute_room(total: int, slices: int, standing: Iterable[ComputeInstance]) -> list[int]:
    taken = {slot for one in standing for slot in range(one.start, one.start + one.size)}
    return [start for start in range(total - slices + 1) if taken.isdisjoint(range(start, start + slices))]


def _lowest_free(taken: Iterable[int]) -> int:
    ids = set(taken)
    return next(number for number in range(len(ids) + 1) if number not in ids)


@dataclass(slots=True)
class Machine:
    """All that the processes share: the GPUs, and the faults that a test switched on."""

    gpus: list[SimulatedGpu]
    serial: int = 0
    devices_hidden: bool = False
    faults: list[Fault] = field(default_factory=list)

    @classmethod
    def of(cls, kinds: Iterable[Kind]) -> "Machine":
        return cls([_gpu(kind) for kind in kinds])

    @property
    def spec(self) -> str:
        runs = groupby(gpu.kind_name for gpu in self.gpus)
        return ",".join(f"{len(list(run))}x{name}" for name, run in runs)

    def next_serial(self) -> int:
        self.serial += 1
        return self.serial


def _gpu(kind: Kind) -> SimulatedGpu:
    mode = pynvml.NVML_DEVICE_MIG_ENABLE if kind.profiles else pynvml.NVML_DEVICE_MIG_DISABLE
    return SimulatedGpu(kind.name, f"GPU-{uuid.uuid4()}", mode, mode)
