"""GPUs in memory, with the verbs of `repositories.gpus.Gpus`."""

import builtins
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import replace

from gateway.domain.mig import (
    FULL,
    WHOLE,
    FreeCapacity,
    Gpu,
    Instance,
    MigMode,
    Placement,
    Profile,
    whole_profile,
)
from gateway.domain.placement import Occupied
from gateway.errors import DriverUnavailable, GpuLost, PlacementTaken, UnknownProfile
from gateway.simulation.catalogue import KINDS


class FakeGpus:
    """`FakeGpus(["A100-40GB", "L4"])`. `failures` maps a verb to what it raises from now on."""

    def __init__(self, kinds: Sequence[str] = ("A100-40GB",), whole_gpus: bool = False) -> None:
        self._gpus = {gpu.uuid: gpu for gpu in (_gpu(i, kind) for i, kind in enumerate(kinds))}
        self._whole_gpus = whole_gpus
        self._failures: dict[str, Exception] = {}
        self.programs: dict[str, int] = {}  # by the MIG device that they use
        self.work: dict[str, float] = {}  # by the MIG device, the part of the time in which it works
        self._made: set[tuple[str, int]] = set()  # GPU and gi_id of what was created through this object
        self._lost: list[Instance] = []  # to be destroyed once their GPUs work again

    def another_program(self) -> "FakeGpus":
        """On the same GPUs."""
        other = FakeGpus([], self._whole_gpus)
        other._gpus = self._gpus
        return other

    def fail(self, verb: str, error: Exception | None) -> None:
        """`verb` raises `error` until told None."""
        self._failures.pop(verb, None)
        if error is not None:
            self._failures[verb] = error

    def set_fault(self, gpu_uuid: str, fault: str | None) -> None:
        self._gpus[gpu_uuid] = replace(self._gpus[gpu_uuid], fault=fault)

    def set_mode(self, gpu_uuid: str, mode: MigMode) -> None:
        self._gpus[gpu_uuid] = replace(self._gpus[gpu_uuid], mig_mode=mode)

    def check(self) -> None:
        self._maybe_fail("check")

    def list(self) -> builtins.list[Gpu]:
        self._maybe_fail("list")
        return [self._shown(gpu) for gpu in self._gpus.values()]

    def _shown(self, gpu: Gpu) -> Gpu:
        if gpu.mig_mode is MigMode.ENABLED:
            return gpu
        if not self._whole_gpus or gpu.mig_mode is MigMode.PENDING_RESET:
            return replace(gpu, profiles=())
        profiles = (whole_profile(gpu.memory_mib),)
        return replace(gpu, memory_slices=1, compute_slices=1, profiles=profiles, instances=())

    def create(self, gpu_uuid: str, profile_name: str, placement: Placement) -> Instance:
        self._maybe_fail("create")
        gpu = self._shown(self._gpu(gpu_uuid))
        profile = gpu.profile(profile_name)
        if profile_name == FULL:
            if not gpu.is_whole:
                raise PlacementTaken(f"MIG mode of GPU {gpu_uuid} is {gpu.mig_mode}.")
            return Instance(gpu_uuid, -1, FULL, WHOLE, gpu_uuid)
        if profile is None:
            raise UnknownProfile(profile_name, [profile.name for profile in gpu.profiles])
        standing = [Occupied(gpu_uuid, one.profile, one.placement) for one in gpu.instances]
        if placement not in free_placements(gpu, profile, standing):
            raise PlacementTaken(f"Something stands at {placement} of GPU {gpu_uuid}.")
        used = {one.gi_id for one in gpu.instances}
        gi_id = next(number for number in range(len(used) + 1) if number not in used)
        instance = Instance(gpu_uuid, gi_id, profile_name, placement, f"MIG-{uuid.uuid4()}")
        self._stand(gpu, [*gpu.instances, instance])
        self._made.add((gpu_uuid, gi_id))
        return instance

    def destroy(
        self, gpu_uuid: str, profile_name: str, placement: Placement, mig_uuid: str | None = None
    ) -> None:
        self._maybe_fail("destroy")
        if profile_name == FULL or gpu_uuid not in self._gpus:
            return
        gpu = self._gpus[gpu_uuid]
        for one in gpu.instances:
            is_mine = (gpu_uuid, one.gi_id) in self._made if mig_uuid is None else one.mig_uuid == mig_uuid
            if (one.profile, one.placement) == (profile_name, placement) and is_mine:
                self._made.discard((gpu_uuid, one.gi_id))
                self._lost.append(one)
        self._destroy_lost()

    def _destroy_lost(self) -> None:
        """Those whose GPUs work."""
        for one in list(self._lost):
            gpu = self._gpus[one.gpu_uuid]
            if not gpu.fault:
                self._lost.remove(one)
                self._stand(gpu, [other for other in gpu.instances if other != one])

    def processes(self, mig_uuid: str) -> int:
        self._maybe_fail("processes")
        if not any(one.mig_uuid == mig_uuid for gpu in self._gpus.values() for one in gpu.instances):
            raise DriverUnavailable(f"The driver knows no device {mig_uuid}.")
        return self.programs.get(mig_uuid, 0)

    def busy(self, mig_uuid: str) -> float | None:
        self._maybe_fail("busy")
        return self.work.get(mig_uuid)

    def tidy(self) -> None:
        self._maybe_fail("tidy")
        self._destroy_lost()

    def _stand(self, gpu: Gpu, instances: Sequence[Instance]) -> None:
        ordered = tuple(sorted(instances, key=lambda one: one.placement))
        self._gpus[gpu.uuid] = replace(gpu, instances=ordered)

    def _gpu(self, gpu_uuid: str) -> Gpu:
        gpu = self._gpus.get(gpu_uuid)
        if gpu is None or gpu.fault:
            raise GpuLost(f"The driver does not list GPU {gpu_uuid}.")
        return gpu

    def _maybe_fail(self, verb: str) -> None:
        if verb in self._failures:
            raise self._failures[verb]


def _gpu(index: int, kind: str) -> Gpu:
    return replace(empty_gpu(kind, index), uuid=f"GPU-{uuid.uuid4()}", simulated=True)


def empty_gpu(kind: str, index: int = 0) -> Gpu:
    """One of the catalogue, such as "A100-40GB", with the UUID GPU-INDEX."""
    made = KINDS[kind]
    return Gpu(
        index=index,
        uuid=f"GPU-{index}",
        name=made.product,
        memory_mib=made.memory_mib,
        mig_mode=MigMode.ENABLED if made.profiles else MigMode.UNSUPPORTED,
        memory_slices=made.memory_slices,
        compute_slices=made.compute_slices,
        profiles=tuple(
            Profile(
                name=profile.name,
                driver_id=profile.driver_id,
                compute_slices=profile.compute_slices,
                memory_mib=profile.memory_mib,
                max_instances=profile.max_instances,
                placements=tuple(Placement(start, profile.size) for start in profile.starts),
                engines=profile.engines,
            )
            for profile in made.profiles
        ),
        instances=(),
    )


def free_placements(gpu: Gpu, profile: Profile, occupied: Iterable[Occupied]) -> list[Placement]:
    """Where `profile` can stand on `gpu` beside `occupied`, lowest start first."""
    free = FreeCapacity.of(gpu)
    for piece in occupied:
        if piece.gpu_uuid == gpu.uuid:
            free = free.without(piece.profile, gpu.profile(piece.profile), piece.placement)
    return free.places(profile)
