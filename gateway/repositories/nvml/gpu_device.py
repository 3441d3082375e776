"""One GPU through NVML: its facts and its GPU instances. Errors are pynvml's; `gpus` translates them."""

import ctypes
from collections.abc import Iterable, Iterator
from contextlib import suppress
from ctypes import byref
from dataclasses import replace
from typing import Any

import pynvml

from gateway.domain.mig import (
    FULL,
    WHOLE,
    FreeCapacity,
    Gpu,
    Instance,
    MediaEngines,
    MigMode,
    Placement,
    Profile,
    whole_profile,
)
from gateway.repositories.nvml.instances import VANISHED, Snapshot, Standing, describe

_MIB = 1024 * 1024
_ATTEMPTS = 3


class GpuDevice:
    """Reads the handle and the facts once: neither changes during the process."""

    def __init__(self, index: int) -> None:
        self._handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        self._index = index
        self.uuid = str(pynvml.nvmlDeviceGetUUID(self._handle))
        self._name = str(pynvml.nvmlDeviceGetName(self._handle))
        self._memory_mib = int(pynvml.nvmlDeviceGetMemoryInfo(self._handle).total) // _MIB
        self._profiles: tuple[Profile, ...] = ()

    def describe(self, simulated: bool, whole_gpus: bool = False) -> Gpu:
        """With `whole_gpus`, a GPU without MIG has the profile `full`."""
        mode = self.mig_mode()
        if whole_gpus and mode in (MigMode.DISABLED, MigMode.UNSUPPORTED):
            return self._whole(mode, simulated)
        snapshot = self.snapshot()
        gpu = self._empty(self.profiles())
        return replace(
            gpu,
            mig_mode=mode,
            profiles=gpu.profiles if mode is MigMode.ENABLED else (),
            instances=tuple(standing.instance for standing in snapshot.standing),
            simulated=simulated,
            complete=snapshot.complete,
        )

    def _whole(self, mode: MigMode, simulated: bool) -> Gpu:
        """A GPU on which programs compute shows an instance. It is the session's if there is a session."""
        in_use = (Instance(self.uuid, -1, FULL, WHOLE, None),) if self._has_processes() else ()
        whole = self._empty((whole_profile(self._memory_mib),))
        return replace(whole, mig_mode=mode, instances=in_use, simulated=simulated)

    def _has_processes(self) -> bool:
        try:
            return bool(pynvml.nvmlDeviceGetComputeRunningProcesses(self._handle))
        except (pynvml.NVMLError_FunctionNotFound, pynvml.NVMLError_NotSupported):
            return False  # an older driver cannot tell

    def _empty(self, profiles: tuple[Profile, ...]) -> Gpu:
        return Gpu(
            index=self._index,
            uuid=self.uuid,
            name=self._name,
            memory_mib=self._memory_mib,
            mig_mode=MigMode.ENABLED,
            memory_slices=max((place.start + place.size for place in _places(profiles)), default=0),
            compute_slices=max((profile.compute_slices for profile in profiles), default=0),
            profiles=profiles,
            instances=(),
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
        """Empty while MIG mode is off. While a reset is pending, the profiles that still apply."""
        if not self._mig_runs():
            return ()
        if not self._profiles:
            self._profiles = tuple(self._read_profiles())
        return self._profiles

    def _mig_runs(self) -> bool:
        try:
            current, _ = pynvml.nvmlDeviceGetMigMode(self._handle)
        except pynvml.NVMLError_NotSupported:
            return False
        return bool(current == pynvml.NVML_DEVICE_MIG_ENABLE)

    def _read_profiles(self) -> Iterator[Profile]:
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
                placements=self._read_placements(info.id),
                engines=MediaEngines(info.decoderCount, info.encoderCount, info.jpegCount, info.ofaCount),
            )

    def _read_placements(self, driver_id: int) -> tuple[Placement, ...]:
        count = ctypes.c_uint()
        pynvml.nvmlDeviceGetGpuInstancePossiblePlacements(self._handle, driver_id, None, byref(count))
        found = (pynvml.c_nvmlGpuInstancePlacement_t * count.value)()
        pynvml.nvmlDeviceGetGpuInstancePossiblePlacements(self._handle, driver_id, found, byref(count))
        return tuple(Placement(place.start, place.size) for place in found[: count.value])

    def snapshot(self) -> Snapshot:
        """The GPU instances on this GPU. An incomplete list is requested again: drivers have returned an
        empty list for a moment."""
        for _ in range(_ATTEMPTS):
            standing = self._standing()
            if self._is_complete(standing):
                return Snapshot(standing, complete=True)
        return Snapshot(standing, complete=False)

    def _standing(self) -> list[Standing]:
        """The GPU instances, listed by profile. A list of MIG devices would omit a GPU instance without a
        compute instance."""
        found = [standing for profile in self.profiles() for standing in self._standing_of(profile)]
        return sorted(found, key=lambda standing: standing.instance.placement)

    def _is_complete(self, standing: Iterable[Standing]) -> bool:
        """Whether the capacity that the driver reports agrees with its list. The check uses the profile that
        fits most often and takes the fewest media engines: every instance takes capacity for it."""
        profiles = self.profiles()
        if not profiles:
            return True
        probe = max(profiles, key=lambda profile: (profile.max_instances, -sum(profile.engines)))
        free = FreeCapacity.of(self._empty(profiles))
        for each in standing:
            free = free.without(each.profile.name, each.profile, each.instance.placement)
        remaining = pynvml.nvmlDeviceGetGpuInstanceRemainingCapacity(self._handle, probe.driver_id)
        return int(remaining) >= free.count(probe)

    def _standing_of(self, profile: Profile) -> Iterator[Standing]:
        handles = (pynvml.c_nvmlGpuInstance_t * profile.max_instances)()
        count = ctypes.c_uint()
        pynvml.nvmlDeviceGetGpuInstances(self._handle, profile.driver_id, handles, byref(count))
        for handle in handles[: count.value]:
            with suppress(*VANISHED):
                yield Standing(handle, profile, self.instance(handle, profile))

    def instance(self, handle: Any, profile: Profile) -> Instance:
        """Raises one of `VANISHED` if the instance no longer exists."""
        return describe(handle, profile, self.uuid)

    def make(self, profile: Profile, placement: Placement) -> Any:
        """Make a GPU instance without a compute instance, and return its handle."""
        # The wrapper passes its argument on as it is: the structure itself, for its address, crashes.
        place = byref(pynvml.c_nvmlGpuInstancePlacement_t(placement.start, placement.size))
        return pynvml.nvmlDeviceCreateGpuInstanceWithPlacement(self._handle, profile.driver_id, place)


def _places(profiles: Iterable[Profile]) -> Iterator[Placement]:
    return (place for profile in profiles for place in profile.placements)
