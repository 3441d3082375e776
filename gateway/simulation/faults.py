"""What a test can make the simulated driver do wrong, while other processes use it."""

from contextlib import suppress

import pynvml

from gateway.domain.mig import Placement
from gateway.simulation.gpu import COMPUTE_PROFILE_SLICES, GpuInstance, RefusedError
from gateway.simulation.machine import Fault
from gateway.simulation.store import Store

_LIST, _INFO = "nvmlDeviceGetGpuInstances", "nvmlGpuInstanceGetInfo"
_COMPUTE = {slices: constant for constant, slices in reversed(COMPUTE_PROFILE_SLICES.items())}
_CREATE, _DESTROY = "nvmlDeviceCreateGpuInstanceWithPlacement", "nvmlGpuInstanceDestroy"


class Faults:
    """The switches. Each takes hold at once in every process that shares the state."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def inject(self, fault: Fault) -> None:
        with self._store.change() as machine:
            machine.faults.append(fault)

    def clear(self) -> None:
        """Make the driver well again; instances stay as they are, and no longer held. What it gave up on
        may still come."""
        with self._store.change() as machine:
            machine.faults.clear()
            machine.devices_hidden = False
            machine.vanished = pynvml.NVML_ERROR_INVALID_ARGUMENT
            for gpu in machine.gpus:
                gpu.lost = 0
                for instance in gpu.instances:
                    instance.holder = None

    def list_nothing(self, times: int | None = None) -> None:
        """The next `times` lists of GPU instances are empty, whatever stands."""
        self.inject(Fault(_LIST, empty=True, times=times))

    def lose_handles(self, code: int, times: int | None = None) -> None:
        """The driver answers `code` for handles that it has just listed: the instances are gone since, or
        it says so."""
        self.inject(Fault(_INFO, code, times=times))
        self.answer_vanished(code)

    def answer_vanished(self, code: int) -> None:
        """What calls answer for a handle of something that is gone: INVALID_ARGUMENT or NOT_FOUND."""
        with self._store.change() as machine:
            machine.vanished = code

    def time_out(self, late: bool, times: int | None = None) -> None:
        """A create reports a time-out. The GPU instance is there then or, if `late`, after `finish_late`."""
        self.inject(Fault(_CREATE, pynvml.NVML_ERROR_TIMEOUT, effect=not late, late=late, times=times))

    def finish_late(self) -> None:
        """The driver makes what it gave up on, wherever that still fits."""
        with self._store.change() as machine:
            for create in machine.late:
                gpu = machine.gpus[create.gpu]
                with suppress(RefusedError):
                    profile = gpu.profile(create.driver_id)
                    gpu.create(profile, Placement(create.start, create.size), machine.next_serial())
            machine.late.clear()

    def leave_remnants(self, times: int | None = None) -> None:
        """A destroy reports success and destroys nothing."""
        self.inject(Fault(_DESTROY, pynvml.NVML_SUCCESS, times=times))

    def stand(self, gpu: int, driver_id: int, start: int) -> bool:
        """Another program makes a GPU instance with its compute instance there, if it fits."""
        with suppress(RefusedError), self._store.change() as machine:
            on = machine.gpus[gpu]
            profile = on.offered(driver_id)
            made = on.create(profile, Placement(start, profile.size), machine.next_serial())
            on.create_compute(made, _COMPUTE[profile.compute_slices], machine.next_serial())
            return True
        return False

    def standing(self, gpu: int) -> list[GpuInstance]:
        """What really stands there, whatever the driver lists."""
        return list(self._store.read().gpus[gpu].instances)

    def hide_devices(self) -> None:
        """The driver answers, and says that there is no GPU."""
        with self._store.change() as machine:
            machine.devices_hidden = True

    def lose(self, gpu: int, code: int) -> None:
        """Everything asked of that GPU answers `code`: GPU_IS_LOST or RESET_REQUIRED."""
        with self._store.change() as machine:
            machine.gpus[gpu].lost = code

    def set_mig_mode(self, gpu: int, current: int, pending: int) -> None:
        with self._store.change() as machine:
            machine.gpus[gpu].mig_current = current
            machine.gpus[gpu].mig_pending = pending

    def hold(self, gpu: int, start: int, holder: str | None) -> None:
        """A process or a monitor holds the GPU instance at `start`, until `holder` is None."""
        with self._store.change() as machine:
            for instance in machine.gpus[gpu].instances:
                if instance.start == start:
                    instance.holder = holder

    def reset(self, gpu: int) -> None:
        """What a reset or a reboot does: no GPU instance survives it, and a pending MIG mode takes hold."""
        with self._store.change() as machine:
            machine.gpus[gpu].instances.clear()
            machine.late = [create for create in machine.late if create.gpu != gpu]
            machine.gpus[gpu].mig_current = machine.gpus[gpu].mig_pending
            machine.gpus[gpu].lost = 0
