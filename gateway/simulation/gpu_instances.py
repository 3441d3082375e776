"""The C functions that describe, create, list and destroy GPU instances."""

from typing import Any

import pynvml

from gateway.domain.mig import Placement
from gateway.simulation.c_interface import (
    Handle,
    HandleKind,
    c_function,
    gpu_index,
    number,
    pointer_to,
    put,
    put_fields,
    put_handle,
    put_handles,
    require_present,
    target,
)
from gateway.simulation.catalogue import KindProfile
from gateway.simulation.gpu import GpuInstance, RefusedError, SimulatedGpu
from gateway.simulation.machine import Machine


@c_function("nvmlDeviceGetGpuInstanceProfileInfo")
def profile_info(machine: Machine, device: Any, constant: Any, info: Any) -> None:
    """Works in any MIG mode."""
    put_fields(info, **_profile_fields(_profile_by_constant(machine, device, number(constant))))


@c_function("nvmlDeviceGetGpuInstanceProfileInfoV")
def profile_info_v(machine: Machine, device: Any, constant: Any, info: Any) -> None:
    machine.gpus[gpu_index(machine, device)].require_mig()
    _put_named_profile(info, _profile_by_constant(machine, device, number(constant)))


@c_function("nvmlDeviceGetGpuInstanceProfileInfoByIdV")
def profile_info_by_id_v(machine: Machine, device: Any, driver_id: Any, info: Any) -> None:
    _put_named_profile(info, _profile(machine, device, driver_id)[1])


def _profile_by_constant(machine: Machine, device: Any, constant: int) -> KindProfile:
    gpu = machine.gpus[gpu_index(machine, device)]
    if constant not in range(pynvml.NVML_GPU_INSTANCE_PROFILE_COUNT):
        raise RefusedError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
    for profile in gpu.kind.profiles:
        if profile.constant == constant:
            return profile
    raise RefusedError(pynvml.NVML_ERROR_NOT_SUPPORTED)


def _put_named_profile(info: Any, profile: KindProfile) -> None:
    if target(info).version != pynvml.nvmlGpuInstanceProfileInfo_v2:
        raise RefusedError(pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH)
    put_fields(info, name=f"MIG {profile.name}".encode(), **_profile_fields(profile))


def _profile_fields(profile: KindProfile) -> dict[str, int]:
    return {
        "id": profile.driver_id,
        "sliceCount": profile.compute_slices,
        "instanceCount": profile.max_instances,
        "memorySizeMB": profile.memory_mib,
        "decoderCount": profile.engines.decoders,
        "encoderCount": profile.engines.encoders,
        "jpegCount": profile.engines.jpegs,
        "ofaCount": profile.engines.ofas,
    }


@c_function("nvmlDeviceGetGpuInstancePossiblePlacements_v2")
def possible_placements(machine: Machine, device: Any, driver_id: Any, placements: Any, count: Any) -> None:
    """Lists all placements, free or not, in any MIG mode. Without an array it returns only their number."""
    profile = machine.gpus[gpu_index(machine, device)].offered(number(driver_id))
    put(count, len(profile.starts))
    if placements is None:
        return
    if len(target(placements)) < len(profile.starts):
        raise RefusedError(pynvml.NVML_ERROR_INSUFFICIENT_SIZE)
    for index, start in enumerate(profile.starts):
        placements[index] = pynvml.c_nvmlGpuInstancePlacement_t(start, profile.size)


@c_function("nvmlDeviceGetGpuInstanceRemainingCapacity")
def remaining_capacity(machine: Machine, device: Any, driver_id: Any, count: Any) -> None:
    gpu, profile = _profile(machine, device, driver_id)
    put(count, gpu.remaining(profile))


@c_function("nvmlDeviceCreateGpuInstance", changes=True)
def create_gpu_instance(machine: Machine, device: Any, driver_id: Any, created: Any) -> None:
    _create(machine, device, driver_id, None, created)


@c_function("nvmlDeviceCreateGpuInstanceWithPlacement", changes=True)
def create_gpu_instance_with_placement(
    machine: Machine, device: Any, driver_id: Any, placement: Any, created: Any
) -> None:
    wanted = target(placement)
    _create(machine, device, driver_id, Placement(wanted.start, wanted.size), created)


def _create(machine: Machine, device: Any, driver_id: Any, placement: Placement | None, created: Any) -> None:
    gpu, profile = _profile(machine, device, driver_id)
    instance = gpu.create(profile, placement, machine.next_serial())
    put_handle(created, Handle(HandleKind.GPU_INSTANCE, Handle.at(device).gpu, instance.serial))


@c_function("nvmlDeviceGetGpuInstances")
def get_gpu_instances(machine: Machine, device: Any, driver_id: Any, found: Any, count: Any) -> None:
    gpu, profile = _profile(machine, device, driver_id)
    index = Handle.at(device).gpu
    standing = [instance for instance in gpu.instances if instance.profile == profile.driver_id]
    handles = [Handle(HandleKind.GPU_INSTANCE, index, instance.serial) for instance in standing]
    put_handles(found, count, handles, profile.max_instances)


@c_function("nvmlDeviceGetGpuInstanceById")
def by_id(machine: Machine, device: Any, gi_id: Any, found: Any) -> None:
    index = gpu_index(machine, device)
    machine.gpus[index].require_mig()
    for instance in machine.gpus[index].instances:
        if instance.id == number(gi_id):
            return put_handle(found, Handle(HandleKind.GPU_INSTANCE, index, instance.serial))
    raise RefusedError(pynvml.NVML_ERROR_NOT_FOUND)


@c_function("nvmlGpuInstanceGetInfo")
def gpu_instance_get_info(machine: Machine, pointer: Any, info: Any) -> None:
    _, instance = gpu_instance(machine, pointer)
    put_fields(
        info,
        device=pointer_to(Handle(HandleKind.GPU, Handle.at(pointer).gpu), pynvml.c_nvmlDevice_t),
        id=instance.id,
        profileId=instance.profile,
        placement=pynvml.c_nvmlGpuInstancePlacement_t(instance.start, instance.size),
    )


@c_function("nvmlGpuInstanceDestroy", changes=True)
def gpu_instance_destroy(machine: Machine, pointer: Any) -> None:
    gpu, instance = gpu_instance(machine, pointer)
    gpu.destroy(instance)


def gpu_instance(machine: Machine, pointer: Any) -> tuple[SimulatedGpu, GpuInstance]:
    handle = Handle.at(pointer)
    if handle.kind is not HandleKind.GPU_INSTANCE:
        raise RefusedError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
    require_present(machine, handle.gpu)
    gpu = machine.gpus[handle.gpu]
    for instance in gpu.instances:
        if instance.serial == handle.serial:
            return gpu, instance
    raise RefusedError(machine.vanished)


def _profile(machine: Machine, device: Any, driver_id: Any) -> tuple[SimulatedGpu, KindProfile]:
    gpu = machine.gpus[gpu_index(machine, device)]
    return gpu, gpu.profile(number(driver_id))
