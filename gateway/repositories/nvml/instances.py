"""GPU instances through NVML: their description, and the calls that fill and destroy one. Errors are
pynvml's."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pynvml

from gateway.domain.mig import Instance, Placement, Profile
from gateway.failpoints import reach

# By slice count. Hopper also offers 1_SLICE_REV1, which has the same count and takes more engines.
_COMPUTE_PROFILES = {
    1: pynvml.NVML_COMPUTE_INSTANCE_PROFILE_1_SLICE,
    2: pynvml.NVML_COMPUTE_INSTANCE_PROFILE_2_SLICE,
    3: pynvml.NVML_COMPUTE_INSTANCE_PROFILE_3_SLICE,
    4: pynvml.NVML_COMPUTE_INSTANCE_PROFILE_4_SLICE,
    6: pynvml.NVML_COMPUTE_INSTANCE_PROFILE_6_SLICE,
    7: pynvml.NVML_COMPUTE_INSTANCE_PROFILE_7_SLICE,
    8: pynvml.NVML_COMPUTE_INSTANCE_PROFILE_8_SLICE,
}
# The errors for a handle or an id whose object another process has destroyed meanwhile: nvml.h documents
# INVALID_ARGUMENT, and drivers have also returned NOT_FOUND.
VANISHED = (pynvml.NVMLError_InvalidArgument, pynvml.NVMLError_NotFound)


@dataclass(frozen=True, slots=True)
class Standing:
    """A GPU instance, with the handle by which it can be destroyed."""

    handle: Any
    profile: Profile
    instance: Instance


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The GPU instances that the driver listed, lowest start first. `complete`: there are no others."""

    standing: Sequence[Standing]
    complete: bool

    def hides(self, placement: Placement) -> bool:
        """Whether an instance that is not listed may occupy `placement`."""
        others = (standing.instance.placement for standing in self.standing)
        return not self.complete and not any(other.overlaps(placement) for other in others)


def describe(handle: Any, profile: Profile, gpu_uuid: str) -> Instance:
    """Raises one of `VANISHED` if the instance no longer exists."""
    info = pynvml.nvmlGpuInstanceGetInfo(handle)
    return Instance(
        gpu_uuid=gpu_uuid,
        gi_id=info.id,
        profile=profile.name,
        placement=Placement(info.placement.start, info.placement.size),
        # Read twice: a driver may fail to list a compute instance for a moment.
        mig_uuid=next(chain(_mig_uuids(handle, profile), _mig_uuids(handle, profile)), None),
    )


def fill(handle: Any, profile: Profile) -> None:
    """Create one compute instance that spans the GPU instance."""
    constant = _COMPUTE_PROFILES[profile.compute_slices]
    info = pynvml.nvmlGpuInstanceGetComputeInstanceProfileInfo(handle, constant, 0)
    pynvml.nvmlGpuInstanceCreateComputeInstance(handle, info.id)


def destroy(standing: Standing) -> None:
    """Destroy the GPU instance and its compute instances. An instance that another process has destroyed
    meanwhile is no error."""
    for compute in _compute_instances(standing.handle, standing.profile):
        with suppress(*VANISHED):
            pynvml.nvmlComputeInstanceDestroy(compute)
        reach("after-compute-instance-destroy", pynvml.NVMLError_Unknown)
    with suppress(*VANISHED):
        pynvml.nvmlGpuInstanceDestroy(standing.handle)
    reach("after-gpu-instance-destroy", pynvml.NVMLError_Unknown)


def is_gone(standing: Standing) -> bool:
    """Whether the handle is invalid now. The driver's list and the result of a destroy are not reliable."""
    try:
        return bool(pynvml.nvmlGpuInstanceGetInfo(standing.handle).id != standing.instance.gi_id)
    except VANISHED:
        return True


def _compute_instances(handle: Any, profile: Profile) -> Iterator[Any]:
    for ci_id in range(profile.compute_slices):
        with suppress(*VANISHED):
            yield pynvml.nvmlGpuInstanceGetComputeInstanceById(handle, ci_id)


def _mig_uuids(handle: Any, profile: Profile) -> Iterator[str]:
    for compute in _compute_instances(handle, profile):
        with suppress(*VANISHED):
            yield str(pynvml.nvmlDeviceGetUUID(pynvml.nvmlComputeInstanceGetInfo_v2(compute).device))
