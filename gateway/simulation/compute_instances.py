"""The C functions that describe, create, list and destroy compute instances."""

from typing import Any

import pynvml

from gateway.simulation.c_interface import (
    Handle,
    HandleKind,
    c_function,
    number,
    pointer_to,
    put,
    put_fields,
    put_handle,
    put_handles,
    require_present,
    target,
)
from gateway.simulation.gpu import ComputeInstance, GpuInstance, RefusedError, SimulatedGpu, compute_room
from gateway.simulation.gpu_instances import gpu_instance
from gateway.simulation.machine import Machine


@c_function("nvmlGpuInstanceGetComputeInstanceProfileInfo")
def get_profile_info(machine: Machine, pointer: Any, constant: Any, engine: Any, info: Any) -> None:
    put_fields(info, **_profile_fields(machine, pointer, number(constant), number(engine)))


@c_function("nvmlGpuInstanceGetComputeInstanceProfileInfoV")
def get_profile_info_v(machine: Machine, pointer: Any, constant: Any, engine: Any, info: Any) -> None:
    if target(info).version != pynvml.nvmlComputeInstanceProfileInfo_v2:
        raise RefusedError(pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH)
    fields = _profile_fields(machine, pointer, number(constant), number(engine))
    gpu, instance = gpu_instance(machine, pointer)
    profile = gpu.profile(instance.profile)
    part = "" if fields["sliceCount"] == profile.compute_slices else f"{fields['sliceCount']}c."
    put_fields(info, name=f"MIG {part}{profile.name}".encode(), **fields)


def _profile_fields(machine: Machine, pointer: Any, constant: int, engine: int) -> dict[str, int]:
    if engine != pynvml.NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED:
        raise RefusedError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
    gpu, instance = gpu_instance(machine, pointer)
    slices = gpu.compute_slices(instance, constant)
    most = gpu.profile(instance.profile).compute_slices // slices
    return {"id": constant, "sliceCount": slices, "instanceCount": most}


@c_function("nvmlGpuInstanceGetComputeInstanceRemainingCapacity")
def get_remaining_capacity(machine: Machine, pointer: Any, profile: Any, count: Any) -> None:
    gpu, instance = gpu_instance(machine, pointer)
    slices = gpu.compute_slices(instance, number(profile))
    total = gpu.profile(instance.profile).compute_slices
    put(count, len(compute_room(total, slices, instance.compute_instances)[::slices]))


@c_function("nvmlGpuInstanceCreateComputeInstance", changes=True)
def create(machine: Machine, pointer: Any, profile: Any, created: Any) -> None:
    gpu, instance = gpu_instance(machine, pointer)
    compute = gpu.create_compute(instance, number(profile), machine.next_serial())
    put_handle(created, Handle(HandleKind.COMPUTE_INSTANCE, Handle.at(pointer).gpu, compute.serial))


@c_function("nvmlGpuInstanceGetComputeInstances")
def get_all(machine: Machine, pointer: Any, profile: Any, found: Any, count: Any) -> None:
    gpu, instance = gpu_instance(machine, pointer)
    slices = gpu.compute_slices(instance, number(profile))
    index = Handle.at(pointer).gpu
    standing = [one for one in instance.compute_instances if one.profile == number(profile)]
    handles = [Handle(HandleKind.COMPUTE_INSTANCE, index, compute.serial) for compute in standing]
    put_handles(found, count, handles, gpu.profile(instance.profile).compute_slices // slices)


@c_function("nvmlGpuInstanceGetComputeInstanceById")
def get_by_id(machine: Machine, pointer: Any, ci_id: Any, found: Any) -> None:
    _, instance = gpu_instance(machine, pointer)
    for compute in instance.compute_instances:
        if compute.id == number(ci_id):
            gpu = Handle.at(pointer).gpu
            return put_handle(found, Handle(HandleKind.COMPUTE_INSTANCE, gpu, compute.serial))
    raise RefusedError(pynvml.NVML_ERROR_NOT_FOUND)


@c_function("nvmlComputeInstanceGetInfo_v2")
def get_info(machine: Machine, pointer: Any, info: Any) -> None:
    _, instance, compute = _compute_instance(machine, pointer)
    gpu = Handle.at(pointer).gpu
    device = Handle(HandleKind.MIG_DEVICE, gpu, compute.serial)
    parent = Handle(HandleKind.GPU_INSTANCE, gpu, instance.serial)
    put_fields(
        info,
        device=pointer_to(device, pynvml.c_nvmlDevice_t),
        gpuInstance=pointer_to(parent, pynvml.c_nvmlGpuInstance_t),
        id=compute.id,
        profileId=compute.profile,
        placement=pynvml.c_nvmlComputeInstancePlacement_t(compute.start, compute.size),
    )


@c_function("nvmlComputeInstanceDestroy", changes=True)
def destroy(machine: Machine, pointer: Any) -> None:
    gpu, instance, compute = _compute_instance(machine, pointer)
    gpu.destroy_compute(instance, compute)


def _compute_instance(machine: Machine, pointer: Any) -> tuple[SimulatedGpu, GpuInstance, ComputeInstance]:
    handle = Handle.at(pointer)
    if handle.kind is not HandleKind.COMPUTE_INSTANCE:
        raise RefusedError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
    require_present(machine, handle.gpu)
    gpu = machine.gpus[handle.gpu]
    for instance in gpu.instances:
        for compute in instance.compute_instances:
            if compute.serial == handle.serial:
                return gpu, instance, compute
    raise RefusedError(machine.vanished)
