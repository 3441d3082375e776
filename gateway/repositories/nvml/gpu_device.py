"""One GPU through NVML: its facts, the GPU instances that stand on it, and the calls that change them.

What raises here raises pynvml's errors; `gpus` above says what was being done and to what.
"""

import ctypes
from collections.abc import Iterable, Iterator
from contextlib import suppress
from ctypes import byref
from dataclasses import dataclass
from typing import Any

import pynvml

from gateway.domain.mig import Gpu, Instance, MigMode, Placement, Profile
from gateway.failpoints import reach

# By slice count. Hopper offers 1_SLICE_REV1 too, of the same count, which takes more of the engines.
_COMPUTE_PROFILES = {
    1: pynvml.NVML_COMPUTE_INSTANCE_PROFILE_1_SLICE,
    2: pynvml.NVML_COMPUTE_INSTANCE_PROFILE_2_SLICE,
    3: pynvml.NVML_COMPUTE_INSTANCE_PROFILE_3_SLICE,
    4: pynvml.NVML_COMPUTE_INSTANCE_PROFILE_4_SLICE,
    6: pynvml.NVML_COMPUTE_INSTANCE_PROFILE_6_SLICE,
    7: pynvml.NVML_COMPUTE_INSTANCE_PROFILE_7_SLICE,
    8: pynvml.NVML_COMPUTE_INSTANCE_PROFILE_8_SLICE,
}
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Standing:
    """A GPU instance, with the handle by which it can be destroyed."""

    handle: Any
    profile: Profile
    instance: Instance


class GpuDevice:
    """Its handle and facts are asked for once: neither changes while the process lives."""

    def __init__(self, index: int) -> None:
        self._handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        self._index = index
        self.uuid = str(pynvml.nvmlDeviceGetUUID(self._handle))
        self._name = str(pynvml.nvmlDeviceGetName(self._handle))
        self._memory_mib = int(pynvml.nvmlDeviceGetMemoryInfo(self._handle).total) // _MIB
        self._profiles: tuple[Profile, ...] = ()

    def describe(self, simulated: bool) -> Gpu:
        mode = self.mig_mode()
        profiles = self.profiles()
        return Gpu(
            index=self._index,
            uuid=self.uuid,
            name=self._name,
            memory_mib=self._memory_mib,
            mig_mode=mode,
            memory_slices=max((place.start + place.size for place in _places(profiles)), default=0),
            compute_slices=max((profile.compute_slices for profile in profiles), default=0),
            profiles=profiles if mode is MigMode.ENABLED else (),
            instances=tuple(standing.instance for standing in self.standing()),
            simulated=simulated,
        )

    def mig_mode(self) -> MigMode:
        try:
            current, pending = pynvml.nvmlDeviceGetMigMode(self._handle)
        except pynvml.NVMLError_NotSupported:
            return MigMode.UNSUPPORTED
        if current != pending:
            return MigMode.PENDING_RESET
        return MigMode.ENABLED if current == pynvml.NVML_DEVICE_MIG_ENABLE else MigMode.DISABLED

    def profiles(self) -> tuple[Profile, ...]:
        """None while MIG mode is off; until a pending reset, those of what still stands."""
        if not self._mig_runs():
            return ()
        if not self._profiles:
            self._profiles = tuple(self._ask_profiles())
        return self._profiles

    def _mig_runs(self) -> bool:
        try:
            current, _ = pynvml.nvmlDeviceGetMigMode(self._handle)
        except pynvml.NVMLError_NotSupported:
            return False
        return bool(current == pynvml.NVML_DEVICE_MIG_ENABLE)

    def _ask_profiles(self) -> Iterator[Profile]:
        for constant in range(pynvml.NVML_GPU_INSTANCE_PROFILE_COUNT):
            try:
                info = pynvml.nvmlDeviceGetGpuInstanceProfileInfo(self._handle, constant, version=2)
            except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_InvalidArgument):
                continue
            yield Profile(
                name=info.name.removeprefix("MIG "),
                driver_id=info.id,
                compute_slices=info.sliceCount,
                memory_mib=info.memorySizeMB,
                max_instances=info.instanceCount,
                placements=self._ask_placements(info.id),
                media_engines=info.ofaCount,
            )

    def _ask_placements(self, driver_id: int) -> tuple[Placement, ...]:
        count = ctypes.c_uint()
        pynvml.nvmlDeviceGetGpuInstancePossiblePlacements(self._handle, driver_id, None, byref(count))
        found = (pynvml.c_nvmlGpuInstancePlacement_t * count.value)()
        pynvml.nvmlDeviceGetGpuInstancePossiblePlacements(self._handle, driver_id, found, byref(count))
        return tuple(Placement(place.start, place.size) for place in found[: count.value])

    def standing(self) -> list[Standing]:
        """Every GPU instance, lowest start first. They are listed by profile and not as MIG devices, for
        one without a compute instance is no MIG device."""
        found = [standing for profile in self.profiles() for standing in self._standing_of(profile)]
        return sorted(found, key=lambda standing: standing.instance.placement)

    def _standing_of(self, profile: Profile) -> Iterator[Standing]:
        handles = (pynvml.c_nvmlGpuInstance_t * profile.max_instances)()
        count = ctypes.c_uint()
        pynvml.nvmlDeviceGetGpuInstances(self._handle, profile.driver_id, handles, byref(count))
        for handle in handles[: count.value]:
            try:
                yield Standing(handle, profile, self._instance(handle, profile))
            except pynvml.NVMLError_NotFound:
                continue  # another process destroyed it since

    def _instance(self, handle: Any, profile: Profile) -> Instance:
        info = pynvml.nvmlGpuInstanceGetInfo(handle)
        compute = next(_compute_instances(handle, profile), None)
        return Instance(
            gpu_uuid=self.uuid,
            gi_id=info.id,
            profile=profile.name,
            placement=Placement(info.placement.start, info.placement.size),
            mig_uuid=_mig_uuid(compute) if compute else None,
        )

    def create(self, profile: Profile, placement: Placement) -> Instance:
        """A GPU instance and one compute instance that spans it, or neither."""
        # The wrapper passes its argument on as it is: the structure itself, for its address, crashes.
        place = byref(pynvml.c_nvmlGpuInstancePlacement_t(placement.start, placement.size))
        handle = pynvml.nvmlDeviceCreateGpuInstanceWithPlacement(self._handle, profile.driver_id, place)
        try:
            reach("after-gpu-instance-create", pynvml.NVMLError_Unknown)
            constant = _COMPUTE_PROFILES[profile.compute_slices]
            compute_profile = pynvml.nvmlGpuInstanceGetComputeInstanceProfileInfo(handle, constant, 0)
            pynvml.nvmlGpuInstanceCreateComputeInstance(handle, compute_profile.id)
            reach("after-compute-instance-create", pynvml.NVMLError_Unknown)
            return self._instance(handle, profile)
        except pynvml.NVMLError:
            _destroy(handle, profile)
            raise


def _places(profiles: Iterable[Profile]) -> Iterator[Placement]:
    return (place for profile in profiles for place in profile.placements)


def destroy(standing: Standing) -> None:
    _destroy(standing.handle, standing.profile)


def _destroy(handle: Any, profile: Profile) -> None:
    with suppress(pynvml.NVMLError_NotFound):  # another process was faster
        for compute in _compute_instances(handle, profile):
            pynvml.nvmlComputeInstanceDestroy(compute)
            reach("after-compute-instance-destroy", pynvml.NVMLError_Unknown)
        pynvml.nvmlGpuInstanceDestroy(handle)
        reach("after-gpu-instance-destroy", pynvml.NVMLError_Unknown)


def _compute_instances(handle: Any, profile: Profile) -> Iterator[Any]:
    for ci_id in range(profile.compute_slices):
        try:
            yield pynvml.nvmlGpuInstanceGetComputeInstanceById(handle, ci_id)
        except pynvml.NVMLError_NotFound:
            continue


def _mig_uuid(compute: Any) -> str:
    return str(pynvml.nvmlDeviceGetUUID(pynvml.nvmlComputeInstanceGetInfo_v2(compute).device))
