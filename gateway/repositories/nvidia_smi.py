"""What nvidia-smi prints in a session."""

import re
from collections.abc import Sequence

from gateway.errors import ContainerFailed

# Lines of `nvidia-smi -L`: `GPU 0: NVIDIA A100 (UUID: GPU-…)`, `  MIG 3g.20gb  Device  0: (UUID: MIG-…)`.
_GPU_LISTED = re.compile(r"\(UUID: (GPU-[^)]+)\)")
_MIG_LISTED = re.compile(r"\(UUID: (MIG-[^)]+)\)")
_LOST = re.compile(
    "GPU is lost|Unable to determine the device handle|Failed to initialize NVML|No devices (were )?found"
)


def listed(listing: str) -> tuple[Sequence[str], Sequence[str]]:
    """Return the UUIDs of the GPUs and of the MIG devices that `nvidia-smi -L` lists."""
    return _GPU_LISTED.findall(listing), _MIG_LISTED.findall(listing)


def only_slice(listing: str) -> str:
    """Return the UUID of the one MIG device that `nvidia-smi -L` lists. Raises `ContainerFailed`."""
    _, migs = listed(listing)
    if len(migs) != 1:
        seen = ", ".join(migs) or " ".join(listing.split())[:200]
        raise ContainerFailed(f"The session should see one MIG device and no other, but sees: {seen}.")
    return migs[0]


def shows_lost_gpu(output: str) -> bool:
    """Whether this is what nvidia-smi prints without its GPU."""
    return _LOST.search(output) is not None
