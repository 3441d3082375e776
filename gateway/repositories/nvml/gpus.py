"""The host's GPUs and the GPU instances on them, as the NVIDIA driver reports and makes them."""

import builtins
import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO

import pynvml

from gateway.domain.mig import Gpu, Instance, MigMode, Placement, Profile
from gateway.errors import DriverUnavailable, GpuLost, PlacementTaken, SliceBusy, UnknownProfile
from gateway.repositories.nvml.errors import Initialiser, translated
from gateway.repositories.nvml.gpu_device import GpuDevice, Standing, destroy

_LOST = (pynvml.NVMLError_GpuIsLost, pynvml.NVMLError_ResetRequired)
_UNDECIDED = (pynvml.NVMLError_Timeout, pynvml.NVMLError_Unknown)
# What holds a GPU instance often lets go within moments: a process that is ending, a monitor's glance.
_PATIENCE = (0.1, 0.2, 0.4, 0.8)
_LOCK_POLL_SECONDS = 0.005


class Gpus:
    """Creates and destroys one at a time on each GPU, among all processes that share `lock_dir`. Nobody waits
    for longer than `lock_seconds` for his turn."""

    def __init__(
        self,
        lock_dir: Path,
        simulated: bool = False,
        sleep: Callable[[float], None] = time.sleep,
        lock_seconds: float = 20.0,
    ) -> None:
        self._lock_dir = lock_dir
        self._lock_seconds = lock_seconds
        self._simulated = simulated
        self._sleep = sleep
        self._initialise = Initialiser()
        self._devices: dict[int, GpuDevice] = {}
        self._known: dict[str, Gpu] = {}

    def check(self) -> None:
        """Raise DriverUnavailable, saying why, where the driver cannot be asked."""
        self._count()

    def list(self) -> builtins.list[Gpu]:
        """Every GPU with its profiles and what stands on it. One that is lost is listed as it was last
        seen, with its fault; an empty answer where there were GPUs is an error, not a fact."""
        with translated("listing the GPUs"):
            gpus = [self._describe(index) for index in range(self._count())]
        self._known |= {gpu.uuid: gpu for gpu in gpus if gpu.fault is None}
        listed = {gpu.uuid for gpu in gpus}
        missing = (gpu for uuid, gpu in self._known.items() if uuid not in listed)
        return gpus + [replace(gpu, fault="the driver no longer lists it") for gpu in missing]

    def create(self, gpu_uuid: str, profile_name: str, placement: Placement) -> Instance:
        """A GPU instance with its compute instance, or none: what fails halfway is taken back. After
        PlacementTaken, what stands there is another's."""
        doing = f"creating a {profile_name} at memory slice {placement.start} of GPU {gpu_uuid}"
        with self._alone(gpu_uuid), translated(doing):
            device = self._device(gpu_uuid)
            profile = _offered(device, profile_name)
            before = device.standing()
            _require_free(before, placement)
            try:
                return device.create(profile, placement)
            except _UNDECIDED:
                _take_back(device, before, profile, placement)
                raise

    def destroy(
        self, gpu_uuid: str, profile_name: str, placement: Placement, mig_uuid: str | None = None
    ) -> None:
        """Succeeds once the GPU instance is gone, or if it is gone already. One of another UUID than
        `mig_uuid` came there after a reset and is somebody else's."""
        for pause in _PATIENCE:
            try:
                return self._destroy(gpu_uuid, profile_name, placement, mig_uuid)
            except SliceBusy:
                self._sleep(pause)
        return self._destroy(gpu_uuid, profile_name, placement, mig_uuid)

    def _destroy(self, gpu_uuid: str, profile_name: str, placement: Placement, mig_uuid: str | None) -> None:
        slice_ = f"the {profile_name} at memory slice {placement.start} of GPU {gpu_uuid}"
        with self._alone(gpu_uuid), translated(f"destroying {slice_}"):
            device = self._device(gpu_uuid)
            for standing in _at(device, profile_name, placement, mig_uuid):
                destroy(standing)
            # Drivers have reported success and left remnants.
            if _at(device, profile_name, placement, mig_uuid):
                raise SliceBusy(f"The driver destroyed {slice_} and still lists it; see nvidia-smi mig -lgi.")

    def _count(self) -> int:
        if self._initialise():
            self._devices.clear()
        with translated("counting the GPUs"):
            count = int(pynvml.nvmlDeviceGetCount())
        if not count and self._known:
            raise DriverUnavailable(
                f"The driver lists none of the {len(self._known)} GPUs that it listed before; see nvidia-smi."
            )
        return count

    def _describe(self, index: int) -> Gpu:
        try:
            return self._device_at(index).describe(self._simulated)
        except _LOST as error:
            self._devices.pop(index, None)
            return replace(self._last_seen(index), fault=str(error))

    def _last_seen(self, index: int) -> Gpu:
        never = Gpu(index, f"unknown-{index}", "unknown", 0, MigMode.UNSUPPORTED, 0, 0, (), ())
        return next((gpu for gpu in self._known.values() if gpu.index == index), never)

    def _device_at(self, index: int) -> GpuDevice:
        if index not in self._devices:
            self._devices[index] = GpuDevice(index)
        return self._devices[index]

    def _device(self, gpu_uuid: str) -> GpuDevice:
        count = self._count()
        known = next((device for device in self._devices.values() if device.uuid == gpu_uuid), None)
        if known:
            return known
        for index in range(count):
            try:
                if self._device_at(index).uuid == gpu_uuid:
                    return self._devices[index]
            except _LOST:
                continue
        raise GpuLost(f"The NVIDIA driver does not list GPU {gpu_uuid}; see nvidia-smi -L and dmesg.")

    @contextmanager
    def _alone(self, gpu_uuid: str) -> Iterator[None]:
        """Holds off other threads too: each opens the file for itself, and the lock is the opening's."""
        try:
            self._lock_dir.mkdir(parents=True, exist_ok=True)
            lock = open(self._lock_dir / f"{gpu_uuid}.lock", "w")  # noqa: SIM115 (closed below)
        except OSError as error:
            raise DriverUnavailable(
                f"The gateway cannot lock GPU {gpu_uuid}: {error.strerror}; make its lock directory writable."
            ) from error
        with lock:
            self._take(lock, gpu_uuid)
            yield

    def _take(self, lock: IO[str], gpu_uuid: str) -> None:
        """A wait that ends by itself: who gave up on a create must not have one that begins later."""
        ends = time.monotonic() + self._lock_seconds
        while True:
            try:
                return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() > ends:
                    raise DriverUnavailable(
                        f"Another call for GPU {gpu_uuid} has not ended within {self._lock_seconds:g} s; see "
                        "whether nvidia-smi answers, and dmesg."
                    ) from error
                time.sleep(_LOCK_POLL_SECONDS)


def _offered(device: GpuDevice, profile_name: str) -> Profile:
    if device.mig_mode() is not MigMode.ENABLED:
        raise DriverUnavailable(
            f"MIG mode of GPU {device.uuid} is {device.mig_mode()}; an administrator turns it on with "
            f"nvidia-smi -i {device.uuid} -mig 1."
        )
    profiles = {profile.name: profile for profile in device.profiles()}
    if profile_name not in profiles:
        raise UnknownProfile(profile_name, builtins.list(profiles))
    return profiles[profile_name]


def _require_free(standing: builtins.list[Standing], placement: Placement) -> None:
    for other in standing:
        if other.instance.placement.overlaps(placement):
            raise PlacementTaken(
                f"A {other.instance.profile} stands at memory slice {other.instance.placement.start} of GPU "
                f"{other.instance.gpu_uuid} already; read the state again and choose another place."
            )


def _at(
    device: GpuDevice, profile_name: str, placement: Placement, mig_uuid: str | None = None
) -> builtins.list[Standing]:
    """What stands there. One without a compute instance has no UUID to tell it by."""
    return [
        standing
        for standing in device.standing()
        if (standing.instance.profile, standing.instance.placement) == (profile_name, placement)
        and (mig_uuid is None or standing.instance.mig_uuid in (None, mig_uuid))
    ]


def _take_back(
    device: GpuDevice, before: builtins.list[Standing], profile: Profile, placement: Placement
) -> None:
    """Destroy what a call that gave up may have made all the same. Only after such a one: where the driver
    refused, an instance that is new in that place is another program's."""
    ids = {standing.instance.gi_id for standing in before}
    for standing in _at(device, profile.name, placement):
        if standing.instance.gi_id not in ids:
            destroy(standing)
