"""The host's GPUs and their GPU instances, through the NVIDIA driver."""

import builtins
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pynvml

from gateway.domain.mig import FULL, WHOLE, Gpu, Instance, MigMode, Placement, Profile
from gateway.errors import DriverUnavailable, GpuLost, PlacementTaken, SliceBusy, UnknownProfile
from gateway.repositories.lock import keep_private, locked
from gateway.repositories.nvml.creation import Creation, take_back
from gateway.repositories.nvml.errors import WHOLE_DRIVER, Initialiser, translated
from gateway.repositories.nvml.gpm import Gpm
from gateway.repositories.nvml.gpu_device import GpuDevice
from gateway.repositories.nvml.instances import VANISHED
from gateway.repositories.nvml.records import Records, gpus_with_late_instances

_LOST = (pynvml.NVMLError_GpuIsLost, pynvml.NVMLError_ResetRequired)
# Seconds. A process that is ending or a monitor that reads releases a GPU instance within moments.
_PATIENCE = (0.1, 0.2, 0.4, 0.8)


class Gpus:
    """Creates and destroys one GPU instance at a time on each GPU, among all processes that share `lock_dir`.
    A call waits for the lock for `lock_seconds` at most. With `whole_gpus`, GPUs without MIG are leased
    whole: nothing is created on them."""

    def __init__(
        self,
        lock_dir: Path,
        simulated: bool = False,
        whole_gpus: bool = False,
        sleep: Callable[[float], None] = time.sleep,
        lock_seconds: float = 20.0,
    ) -> None:
        self._lock_dir = lock_dir
        self._lock_seconds = lock_seconds
        self._simulated = simulated
        self._whole_gpus = whole_gpus
        self._sleep = sleep
        self._initialise = Initialiser()
        self._devices: dict[int, GpuDevice] = {}
        self._known: dict[str, Gpu] = {}
        self._gpm = Gpm()

    def check(self) -> None:
        """Raises `DriverUnavailable`, with the reason, if the driver does not work."""
        self._count()

    def list(self) -> builtins.list[Gpu]:
        """Return every GPU with its profiles and instances. A GPU that does not respond keeps its last state,
        with its fault. Raises `DriverUnavailable` if the driver lists no GPU and listed GPUs before."""
        with translated("listing the GPUs"):
            gpus = [self._describe(index) for index in range(self._count())]
        self._known |= {gpu.uuid: gpu for gpu in gpus if gpu.fault is None}
        listed = {gpu.uuid for gpu in gpus}
        missing = (gpu for uuid, gpu in self._known.items() if uuid not in listed)
        return gpus + [replace(gpu, fault="the driver no longer lists it") for gpu in missing]

    def create(self, gpu_uuid: str, profile_name: str, placement: Placement) -> Instance:
        """Create a GPU instance with its compute instance, or nothing. After `PlacementTaken`, an instance at
        this placement is another program's. After `SliceBusy`, `destroy` removes what is left."""
        doing = f"creating a {profile_name} at memory slice {placement.start} of GPU {gpu_uuid}"
        with self._exclusive(gpu_uuid) as records, translated(doing):
            device = self._device(gpu_uuid)
            if profile_name == FULL:
                return self._whole(device)
            return Creation(device, records, _offered(device, profile_name), placement).run()

    def destroy(
        self, gpu_uuid: str, profile_name: str, placement: Placement, mig_uuid: str | None = None
    ) -> None:
        """Return once the GPU instance is gone. This destroys only the gateway's own instances: the one with
        `mig_uuid`, or without a UUID the one that is in the records. Raises `SliceBusy`.

        If the GPU is lost, nobody can use the instance, and it rarely survives: only a reset or a reboot
        brings the GPU back. `tidy` destroys it if it is there again.
        """
        if profile_name == FULL:
            return  # a whole GPU was not created
        try:
            self._destroy_patiently(gpu_uuid, profile_name, placement, mig_uuid)
        except GpuLost:
            with self._exclusive(gpu_uuid) as records:
                if made := records.find(profile_name, placement, mig_uuid):
                    records.lose(made)

    def _destroy_patiently(
        self, gpu_uuid: str, profile_name: str, placement: Placement, mig_uuid: str | None
    ) -> None:
        for pause in _PATIENCE:
            try:
                return self._destroy(gpu_uuid, profile_name, placement, mig_uuid)
            except SliceBusy:
                self._sleep(pause)
        return self._destroy(gpu_uuid, profile_name, placement, mig_uuid)

    def processes(self, mig_uuid: str) -> int:
        """Return the number of compute processes on a MIG device."""
        self._count()
        with translated(f"reading the processes of {mig_uuid}"):
            device = pynvml.nvmlDeviceGetHandleByUUID(mig_uuid)
            return len(pynvml.nvmlDeviceGetComputeRunningProcesses(device))

    def busy(self, mig_uuid: str) -> float | None:
        """Return the part of the time since the last call in which a MIG device worked. None if the GPU has
        no meter for that, and at the first call."""
        self._count()
        with translated(f"reading how busy {mig_uuid} is"):
            return self._gpm.busy(mig_uuid, pynvml.nvmlDeviceGetHandleByUUID(mig_uuid))

    def tidy(self) -> None:
        """Destroy the instances that the driver finished after it had reported a time-out, and those that
        came back with a lost GPU."""
        for gpu_uuid in gpus_with_late_instances(self._lock_dir):
            with suppress(GpuLost), self._exclusive(gpu_uuid) as records, translated(f"tidying {gpu_uuid}"):
                for made in records.late():
                    take_back(self._device(gpu_uuid), records, made)

    def _whole(self, device: GpuDevice) -> Instance:
        gpu = device.describe(self._simulated, self._whole_gpus)
        if not gpu.is_whole:
            raise PlacementTaken(
                f"MIG mode of GPU {gpu.uuid} is now {gpu.mig_mode}, so it is not leased whole."
            )
        if gpu.instances:
            raise PlacementTaken(f"Another program computes on GPU {gpu.uuid}; see nvidia-smi.")
        return Instance(device.uuid, -1, FULL, WHOLE, device.uuid)

    def _destroy(self, gpu_uuid: str, profile_name: str, placement: Placement, mig_uuid: str | None) -> None:
        slice_ = f"the {profile_name} at memory slice {placement.start} of GPU {gpu_uuid}"
        with self._exclusive(gpu_uuid) as records, translated(f"destroying {slice_}"):
            device = self._device(gpu_uuid)
            if device.mig_mode() is MigMode.UNSUPPORTED:
                raise DriverUnavailable(
                    f"The driver reports that GPU {gpu_uuid} does not support MIG; see nvidia-smi."
                )
            made = records.find(profile_name, placement, mig_uuid)
            if made:
                take_back(device, records, made)

    def _count(self) -> int:
        if self._initialise():
            self._devices.clear()
            self._gpm.forget()
        with translated("counting the GPUs"):
            count = int(pynvml.nvmlDeviceGetCount())
        if not count and self._known:
            raise DriverUnavailable(
                f"The driver lists none of the {len(self._known)} GPUs that it listed before; see nvidia-smi."
            )
        return count

    def _describe(self, index: int) -> Gpu:
        """The GPU. An error of this GPU becomes its fault, so that the others are still listed."""
        try:
            return self._retried(index)
        except pynvml.NVMLError as error:
            if error.value in WHOLE_DRIVER:
                raise
            self._devices.pop(index, None)
            return replace(self._last_seen(index), fault=str(error))

    def _retried(self, index: int) -> Gpu:
        """Retry with a new handle if the known one has become invalid."""
        try:
            return self._device_at(index).describe(self._simulated, self._whole_gpus)
        except VANISHED:
            self._devices.pop(index, None)
            return self._device_at(index).describe(self._simulated, self._whole_gpus)

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
    def _exclusive(self, gpu_uuid: str) -> Iterator[Records]:
        lock, purpose = self._lock_dir / f"{gpu_uuid}.lock", f"change GPU {gpu_uuid}"
        with ExitStack() as held:
            try:
                self._lock_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
                keep_private(self._lock_dir)
                held.enter_context(locked(lock, purpose, self._lock_seconds, self._lock_timeout(gpu_uuid)))
            except OSError as error:
                raise DriverUnavailable(
                    f"The gateway cannot lock GPU {gpu_uuid}: {error.strerror}; make its lock directory "
                    "writable."
                ) from error
            yield Records(self._lock_dir, gpu_uuid)

    def _lock_timeout(self, gpu_uuid: str) -> Callable[[str], DriverUnavailable]:
        return lambda _: DriverUnavailable(
            f"Another call for GPU {gpu_uuid} has not ended within {self._lock_seconds:g} s; see whether "
            "nvidia-smi answers, and dmesg."
        )


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
