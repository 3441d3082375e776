"""Creates one GPU instance with its compute instance, and removes a partial result after an error."""

from collections.abc import Sequence
from typing import Any

import pynvml

from gateway.domain.mig import Instance, Placement, Profile
from gateway.errors import GatewayError, PlacementTaken, SliceBusy
from gateway.failpoints import reach
from gateway.repositories.nvml.gpu_device import GpuDevice
from gateway.repositories.nvml.instances import Snapshot, Standing, destroy, fill, is_gone
from gateway.repositories.nvml.records import Made, Records

# After one of these errors the driver may have made the GPU instance, or may make it later.
_UNDECIDED = (
    pynvml.NVMLError_Timeout,
    pynvml.NVMLError_Unknown,
    pynvml.NVMLError_GpuIsLost,
    pynvml.NVMLError_ResetRequired,
)


class Creation:
    """Creates one instance of `profile` at `placement`. The caller holds the GPU's lock."""

    def __init__(self, device: GpuDevice, records: Records, profile: Profile, placement: Placement) -> None:
        self._device, self._records = device, records
        self._profile, self._placement = profile, placement
        self._handle: Any = None

    def run(self) -> Instance:
        """Raises `PlacementTaken` if another instance occupies the placement; after this error nothing is
        left. After `SliceBusy` and `GpuLost`, a GPU instance may be left."""
        _require_free(self._device.snapshot(), self._placement)
        self._records.begin(self._profile.name, self._placement)
        try:
            return self._make()
        except (pynvml.NVMLError, GatewayError) as error:
            self._take_back(error)
            raise

    def _make(self) -> Instance:
        self._handle = self._device.make(self._profile, self._placement)
        self._records.name(self._device.instance(self._handle, self._profile))
        reach("after-gpu-instance-create", pynvml.NVMLError_Unknown)
        fill(self._handle, self._profile)
        instance = self._device.instance(self._handle, self._profile)
        if instance.mig_uuid is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        self._records.name(instance)
        reach("after-compute-instance-create", pynvml.NVMLError_Unknown)
        return instance

    def _take_back(self, error: Exception) -> None:
        """If the driver refused the GPU instance, an instance at this placement is another program's."""
        made = self._records.find(self._profile.name, self._placement)
        if made is None:
            return
        if self._handle is not None:
            take_back(self._device, self._records, made)
        elif isinstance(error, _UNDECIDED):
            take_back(self._device, self._records, self._records.give_up(made))
        else:
            self._records.forget(made)


def take_back(device: GpuDevice, records: Records, made: Made) -> None:
    """Destroy the instance that was `made`, if it exists. Raises `SliceBusy` if it may still exist."""
    snapshot = device.snapshot()
    own = [standing for standing in snapshot.standing if made.is_of(standing.instance)]
    for standing in own:
        if standing.instance.mig_uuid:  # the UUID disappears with the compute instance
            records.name(standing.instance)
        destroy(standing)
    if own:
        _require_gone(device, own)
    elif snapshot.hides(made.placement):
        raise SliceBusy(
            f"The driver lists no GPU instance at memory slice {made.start} of GPU {device.uuid} and reports "
            "no free capacity for one; see nvidia-smi mig -lgi."
        )
    records.forget(made)


def _require_gone(device: GpuDevice, destroyed: Sequence[Standing]) -> None:
    """Raises `SliceBusy` if an instance still exists: drivers have reported success in this case."""
    snapshot = device.snapshot()
    listed = {_place(standing) for standing in snapshot.standing}
    for standing in destroyed:
        hidden = snapshot.hides(standing.instance.placement)
        if hidden or _place(standing) in listed or not is_gone(standing):
            raise SliceBusy(
                f"The driver destroyed the {standing.profile.name} at memory slice "
                f"{standing.instance.placement.start} of GPU {device.uuid} and still lists it; see "
                "nvidia-smi mig -lgi."
            )


def _place(standing: Standing) -> tuple[int, Placement]:
    return standing.instance.gi_id, standing.instance.placement


def _require_free(snapshot: Snapshot, placement: Placement) -> None:
    for standing in snapshot.standing:
        other = standing.instance
        if other.placement.overlaps(placement):
            raise PlacementTaken(
                f"A {other.profile} already occupies memory slice {other.placement.start} of GPU "
                f"{other.gpu_uuid}; read the state again and choose another placement."
            )
