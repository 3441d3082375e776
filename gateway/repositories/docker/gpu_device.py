"""The GPU device of a container: the request for it, and a check that the container sees no other."""

import re

from docker.types import DeviceRequest

from gateway.errors import ContainerFailed
from gateway.repositories import nvidia_smi
from gateway.repositories.docker.exec import Inside

# `MIG-<uuid>`, and `MIG-GPU-<uuid>/<gi>/<ci>` from drivers before 470; `GPU-<uuid>` of a whole GPU.
_DEVICE_UUID = re.compile(r"(MIG-[0-9A-Za-z/-]+|GPU-[0-9A-Za-z-]+)")


def request(gpu_uuid: str) -> DeviceRequest:
    """The request that `docker run --gpus device=UUID` sends. An empty id would start a container without a
    GPU, and an id with a comma would add a second GPU."""
    if not _DEVICE_UUID.fullmatch(gpu_uuid):
        raise ContainerFailed(
            f"The driver named the slice {gpu_uuid!r}, which is not the UUID of one device."
        )
    return DeviceRequest(driver="nvidia", device_ids=[gpu_uuid], capabilities=[["gpu", "compute", "utility"]])


def require_only(inside: Inside, container_id: str, gpu_uuid: str) -> None:
    """Raises `ContainerFailed` unless nvidia-smi in the container lists exactly one GPU and this MIG device,
    or exactly this whole GPU."""
    code, listing = inside.run(container_id, ["nvidia-smi", "-L"])
    gpus, migs = nvidia_smi.listed(listing)
    is_whole = gpu_uuid.startswith("GPU-")
    expected = gpus == [gpu_uuid] and not migs if is_whole else len(gpus) == 1 and migs == [gpu_uuid]
    if code or not expected:
        seen = ", ".join([*gpus, *migs]) or " ".join(listing.split())[:200]
        raise ContainerFailed(
            f"The session's container should see {gpu_uuid} and no other GPU device, but sees: {seen}. "
            "Look at the NVIDIA container toolkit's configuration."
        )
