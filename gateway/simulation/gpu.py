"""One simulated GPU: its instances, and the calls that it refuses, with a real driver's codes. Pure."""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import pynvml

from gateway.domain.mig import Placement
from gateway.simulation.catalogue import KINDS, Kind, KindProfile


class RefusedError(Exception):
    """A C call that returns `code` instead of NVML_SUCCESS."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass(slots=True)
class ComputeInstance:
    """`profile` is an NVML_COMPUTE_INSTANCE_PROFILE_*, whose value is also the profile's id. `serial` is
    never reused, unlike `id`, so a stale handle finds nothing."""

    id: int
    profile: int
    start: int
    size: int
    serial: int
    uuid: str


@dataclass(slots=True)
class GpuInstance:
    """`processes` is the number of programs that compute on it, and `busy` the percentage of time in which it
    works: no program can use a simulated slice, so a test sets both."""

    id: int
    profile: int
    start: int
    size: int
    serial: int
    holder: str | None = None
    processes: int = 0
    busy: float = 0.0
    compute_instances: list[ComputeInstance] = field(default_factory=list)

    @property
    def placement(self) -> Placement:
        return Placement(self.start, self.size)


@dataclass(slots=True)
class SimulatedGpu:
    """`processes` is the number of programs that compute on the GPU while its MIG mode is off, and `busy` the
    percentage of time in which it then works."""

    kind_name: str
    uuid: str
    mig_current: int
    mig_pending: int
    lost: int = pynvml.NVML_SUCCESS
    processes: int = 0
    busy: float = 0.0
    instances: list[GpuInstance] = field(default_factory=list)

    @property
    def kind(self) -> Kind:
        return KINDS[self.kind_name]

    def require_mig(self) -> None:
        if not self.kind.profiles or self.mig_current != pynvml.NVML_DEVICE_MIG_ENABLE:
            raise RefusedError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    def profile(self, driver_id: int) -> KindProfile:
        self.require_mig()
        return self.offered(driver_id)

    def offered(self, driver_id: int) -> KindProfile:
        """Return the profile, in any MIG mode."""
        if not self.kind.profiles:
            raise RefusedError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        for profile in self.kind.profiles:
            if profile.driver_id == driver_id:
                return profile
        raise RefusedError(pynvml.NVML_ERROR_INVALID_ARGUMENT)

    def room_for(self, profile: KindProfile) -> list[Placement]:
        """Return where `profile` fits now, the lowest start first."""
        return self._free_places(profile) if self._most(profile) else []

    def remaining(self, profile: KindProfile) -> int:
        """Return how many more instances of `profile` can be created now."""
        free = self._free_places(profile)
        counts = range(min(self._most(profile), len(free)), 0, -1)
        return next((count for count in counts if any(map(_disjoint, combinations(free, count)))), 0)

    def _free_places(self, profile: KindProfile) -> list[Placement]:
        places = (Placement(start, profile.size) for start in profile.starts)
        return [place for place in places if not any(place.overlaps(one.placement) for one in self.instances)]

    def _most(self, profile: KindProfile) -> int:
        """The limit for more of `profile` by compute slices, media engines and `max_instances`."""
        standing = [self.profile(instance.profile) for instance in self.instances]
        compute = self.kind.compute_slices - sum(one.compute_slices for one in standing)
        limits = [profile.max_instances - standing.count(profile), compute // profile.compute_slices]
        for number, total in enumerate(self.kind.engines):
            if each := profile.engines[number]:
                limits.append((total - sum(one.engines[number] for one in standing)) // each)
        return max(0, min(limits))

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
        """Return the slices of the compute instance profile. Refuses it if `instance` is too small."""
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
    # One slice again, with media engines of its own.
    pynvml.NVML_COMPUTE_INSTANCE_PROFILE_1_SLICE_REV1: 1,
}


def compute_room(total: int, slices: int, standing: Iterable[ComputeInstance]) -> list[int]:
    taken = {slot for one in standing for slot in range(one.start, one.start + one.size)}
    return [start for start in range(total - slices + 1) if taken.isdisjoint(range(start, start + slices))]


def _disjoint(places: Sequence[Placement]) -> bool:
    return not any(one.overlaps(other) for one, other in combinations(places, 2))


def _lowest_free(taken: Iterable[int]) -> int:
    ids = set(taken)
    return next(number for number in range(len(ids) + 1) if number not in ids)
