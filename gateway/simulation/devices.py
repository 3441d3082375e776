"""The C functions that describe the system, its GPUs and its MIG devices."""

from typing import Any

import pynvml

from gateway.simulation.c_interface import (
    Handle,
    HandleKind,
    c_function,
    gpu_index,
    number,
    put,
    put_fields,
    put_handle,
    put_text,
    require_present,
    target,
)
from gateway.simulation.gpu import ComputeInstance, GpuInstance, RefusedError, SimulatedGpu
from gateway.simulation.machine import Machine

_MIB = 1024 * 1024


@c_function("nvmlSystemGetDriverVersion")
def get_driver_version(machine: Machine, version: Any, length: Any) -> None:
    put_text(version, length, "580.00-simulated")


@c_function("nvmlSystemGetNVMLVersion")
def get_nvml_version(machine: Machine, version: Any, length: Any) -> None:
    put_text(version, length, "13.580.00-simulated")


@c_function("nvmlDeviceGetCount_v2")
def get_count(machine: Machine, count: Any) -> None:
    put(count, 0 if machine.devices_hidden else len(machine.gpus))


@c_function("nvmlDeviceGetHandleByIndex_v2")
def get_handle_by_index(machine: Machine, index: Any, device: Any) -> None:
    if machine.devices_hidden or number(index) not in range(len(machine.gpus)):
        raise RefusedError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
    require_present(machine, number(index))
    put_handle(device, Handle(HandleKind.GPU, number(index)))


@c_function("nvmlDeviceGetHandleByUUID")
def get_handle_by_uuid(machine: Machine, uuid: Any, device: Any) -> None:
    wanted = uuid.value.decode()
    for index, gpu in enumerate(machine.gpus):
        if gpu.uuid == wanted and not machine.devices_hidden:
            require_present(machine, index)
            return put_handle(device, Handle(HandleKind.GPU, index))
        for _, compute in _mig_devices(gpu):
            if compute.uuid == wanted:
                return put_handle(device, Handle(HandleKind.MIG_DEVICE, index, compute.serial))
    raise RefusedError(pynvml.NVML_ERROR_NOT_FOUND)


@c_function("nvmlDeviceGetIndex")
def get_index(machine: Machine, device: Any, index: Any) -> None:
    put(index, gpu_index(machine, device))


@c_function("nvmlDeviceGetUUID")
def get_uuid(machine: Machine, device: Any, uuid: Any, length: Any) -> None:
    if Handle.at(device).kind is HandleKind.MIG_DEVICE:
        put_text(uuid, length, mig_device(machine, device)[2].uuid)
    else:
        put_text(uuid, length, machine.gpus[gpu_index(machine, device)].uuid)


@c_function("nvmlDeviceGetName")
def get_name(machine: Machine, device: Any, name: Any, length: Any) -> None:
    if Handle.at(device).kind is HandleKind.MIG_DEVICE:
        gpu, instance, _ = mig_device(machine, device)
        put_text(name, length, f"{gpu.kind.product} MIG {gpu.profile(instance.profile).name}")
    else:
        put_text(name, length, machine.gpus[gpu_index(machine, device)].kind.product)


@c_function("nvmlDeviceGetMemoryInfo")
def get_memory_info(machine: Machine, device: Any, memory: Any) -> None:
    size = _memory_mib(machine, device) * _MIB
    put_fields(memory, total=size, free=size, used=0)


@c_function("nvmlDeviceGetMemoryInfo_v2")
def get_memory_info_v2(machine: Machine, device: Any, memory: Any) -> None:
    get_memory_info(machine, device, memory)
    put_fields(memory, reserved=0)


@c_function("nvmlDeviceGetComputeRunningProcesses_v3")
def get_compute_running_processes(machine: Machine, device: Any, count: Any, infos: Any) -> None:
    """There are as many processes as a test switched on."""
    if Handle.at(device).kind is HandleKind.MIG_DEVICE:
        processes = mig_device(machine, device)[1].processes
    else:
        processes = machine.gpus[gpu_index(machine, device)].processes
    space = number(target(count))
    put(count, processes)
    if processes > space:
        raise RefusedError(pynvml.NVML_ERROR_INSUFFICIENT_SIZE)
    for index in range(processes):
        infos[index].pid = 1000 + index
    return


def _memory_mib(machine: Machine, device: Any) -> int:
    if Handle.at(device).kind is HandleKind.MIG_DEVICE:
        gpu, instance, _ = mig_device(machine, device)
        return gpu.profile(instance.profile).memory_mib
    return machine.gpus[gpu_index(machine, device)].kind.memory_mib


@c_function("nvmlDeviceGetMigMode")
def get_mig_mode(machine: Machine, device: Any, current: Any, pending: Any) -> None:
    gpu = machine.gpus[gpu_index(machine, device)]
    if not gpu.kind.profiles:
        raise RefusedError(pynvml.NVML_ERROR_NOT_SUPPORTED)
    put(current, gpu.mig_current)
    put(pending, gpu.mig_pending)


@c_function("nvmlDeviceGetMaxMigDeviceCount")
def get_max_mig_device_count(machine: Machine, device: Any, count: Any) -> None:
    gpu = machine.gpus[gpu_index(machine, device)]
    put(count, gpu.kind.compute_slices if gpu.mig_current else 0)


@c_function("nvmlDeviceGetMigDeviceHandleByIndex")
def get_mig_device_handle_by_index(machine: Machine, device: Any, index: Any, mig: Any) -> None:
    gpu = machine.gpus[gpu_index(machine, device)]
    gpu.require_mig()
    if number(index) not in range(gpu.kind.compute_slices):
        raise RefusedError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
    devices = _mig_devices(gpu)
    if number(index) >= len(devices):
        raise RefusedError(pynvml.NVML_ERROR_NOT_FOUND)
    _, compute = devices[number(index)]
    put_handle(mig, Handle(HandleKind.MIG_DEVICE, Handle.at(device).gpu, compute.serial))


@c_function("nvmlDeviceIsMigDeviceHandle")
def is_mig_device_handle(machine: Machine, device: Any, result: Any) -> None:
    put(result, int(Handle.at(device).kind is HandleKind.MIG_DEVICE))


@c_function("nvmlDeviceGetDeviceHandleFromMigDeviceHandle")
def get_parent_handle(machine: Machine, mig: Any, device: Any) -> None:
    mig_device(machine, mig)
    put_handle(device, Handle(HandleKind.GPU, Handle.at(mig).gpu))


@c_function("nvmlDeviceGetGpuInstanceId")
def get_gpu_instance_id(machine: Machine, mig: Any, gi_id: Any) -> None:
    put(gi_id, mig_device(machine, mig)[1].id)


@c_function("nvmlDeviceGetComputeInstanceId")
def get_compute_instance_id(machine: Machine, mig: Any, ci_id: Any) -> None:
    put(ci_id, mig_device(machine, mig)[2].id)


def mig_device(machine: Machine, device: Any) -> tuple[SimulatedGpu, GpuInstance, ComputeInstance]:
    handle = Handle.at(device)
    if handle.kind is not HandleKind.MIG_DEVICE:
        raise RefusedError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
    require_present(machine, handle.gpu)
    gpu = machine.gpus[handle.gpu]
    for instance, compute in _mig_devices(gpu):
        if compute.serial == handle.serial:
            return gpu, instance, compute
    raise RefusedError(machine.vanished)


def _mig_devices(gpu: SimulatedGpu) -> list[tuple[GpuInstance, ComputeInstance]]:
    """Return the MIG devices: there is one for each compute instance, and none for a GPU instance without."""
    instances = sorted(gpu.instances, key=lambda instance: instance.id)
    return [(instance, compute) for instance in instances for compute in instance.compute_instances]
