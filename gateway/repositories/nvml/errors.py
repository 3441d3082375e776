"""Initialises nvidia-ml-py once in each process, and raises its errors as the gateway's errors.

NVMLError objects cannot be hashed or compared with numbers, and their texts name neither the failed call nor
a remedy. They do not leave this package.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pynvml

from gateway.errors import DriverUnavailable, GpuLost, PlacementTaken, SliceBusy, Unavailable

_MEANINGS: dict[int, tuple[type[Unavailable], str]] = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: (
        DriverUnavailable,
        "this host has no NVIDIA driver library; install the driver, or try the gateway without a GPU by "
        "--simulate-gpus 2xA100-40GB",
    ),
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: (
        DriverUnavailable,
        "the NVIDIA driver is not loaded; load it with modprobe nvidia and see what nvidia-smi prints",
    ),
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
        DriverUnavailable,
        "the NVIDIA driver's library and kernel module are of different versions, as after an upgrade; "
        "reboot the host once its sessions have ended",
    ),
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND: (
        DriverUnavailable,
        "the NVIDIA driver is too old for this; install version 535 or later",
    ),
    pynvml.NVML_ERROR_NO_PERMISSION: (
        DriverUnavailable,
        "the gateway lacks the driver's mig/config capability; run it as root, or in a container with "
        "NVIDIA_MIG_CONFIG_DEVICES=all",
    ),
    pynvml.NVML_ERROR_NOT_SUPPORTED: (
        DriverUnavailable,
        "the GPU does not support it, or its MIG mode is off; see nvidia-smi --query-gpu=mig.mode.current "
        "--format=csv",
    ),
    pynvml.NVML_ERROR_GPU_IS_LOST: (
        GpuLost,
        "the GPU is lost: it has fallen off the bus; see dmesg for its Xid error, and reboot the host",
    ),
    pynvml.NVML_ERROR_RESET_REQUIRED: (
        GpuLost,
        "the GPU needs a reset; end its sessions, stop the gateway, which has the GPU open, and run "
        "nvidia-smi --gpu-reset, or reboot the host",
    ),
    pynvml.NVML_ERROR_IN_USE: (
        SliceBusy,
        "it is in use; look for a process on it with nvidia-smi and for a monitor such as DCGM, and stop it",
    ),
    pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES: (
        PlacementTaken,
        "something stands in that place already, or what is left of the GPU does not suffice",
    ),
}

# These errors concern the whole driver. All others concern the GPU of the call.
WHOLE_DRIVER = frozenset(
    {
        pynvml.NVML_ERROR_UNINITIALIZED,
        pynvml.NVML_ERROR_LIBRARY_NOT_FOUND,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        pynvml.NVML_ERROR_NO_PERMISSION,
    }
)


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Raise the gateway's error for NVML's. `doing` is the failed action, such as "listing the GPUs"."""
    try:
        yield
    except pynvml.NVMLError as error:
        unknown = (DriverUnavailable, f"the driver answered {str(error)!r}; see dmesg and try again")
        kind, meaning = _MEANINGS.get(error.value, unknown)
        raise kind(f"{doing[0].upper()}{doing[1:]} failed: {meaning}.") from error


class Initialiser:
    """Calls nvmlInit once in each process: a child process cannot use the initialisation of its parent."""

    def __init__(self) -> None:
        self._process: int | None = None

    def __call__(self) -> bool:
        """Return whether this was the first call in this process. If so, no earlier handle is valid."""
        if self._process == os.getpid():
            return False
        with translated("starting NVML"):
            pynvml.nvmlInit()
        self._process = os.getpid()
        return True
