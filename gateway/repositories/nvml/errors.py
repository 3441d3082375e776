"""nvidia-ml-py, initialised once a process, with its errors as the gateway's.

NVMLError objects cannot be hashed or compared with numbers, and say neither what was tried nor what
to do: nothing above this package sees one.
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
        "the GPU needs a reset; end its sessions and run nvidia-smi --gpu-reset, or reboot the host",
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

# These are about the driver as a whole, whichever GPU was asked; all others are about that GPU.
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
    """Raise the gateway's error for NVML's; `doing` is what failed, as in "listing the GPUs"."""
    try:
        yield
    except pynvml.NVMLError as error:
        unknown = (DriverUnavailable, f"the driver answered {str(error)!r}; see dmesg and try again")
        kind, meaning = _MEANINGS.get(error.value, unknown)
        raise kind(f"{doing[0].upper()}{doing[1:]} failed: {meaning}.") from error


class Initialiser:
    """Calls nvmlInit in each process that needs it: what a parent initialised is not valid in its child."""

    def __init__(self) -> None:
        self._process: int | None = None

    def __call__(self) -> bool:
        """Whether this was the first time in this process, so that nothing known by handle is valid."""
        if self._process == os.getpid():
            return False
        with translated("starting NVML"):
            pynvml.nvmlInit()
        self._process = os.getpid()
        return True
