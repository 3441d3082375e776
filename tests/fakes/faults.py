"""Faults of the simulated driver that a test can switch on while other processes use the driver."""

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
    """Switches for faults. Each takes effect at once in every process with the same state file."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def inject(self, fault: Fault) -> None:
        with self._store.change() as machine:
            machine.faults.append(fault)

    def clear(self) -> None:
        """End all faults. Instances stay, and nothing holds them any more. `finish_late` can still finish
        creates that timed out."""
        with self._store.change() as machine:
            machine.faults.clear()
            machine.devices_hidden = False
            machine.closed.clear()
            machine.vanished = pynvml.NVML_ERROR_INVALID_ARGUMENT
            for gpu in machine.gpus:
                gpu.lost = 0
                for instance in gpu.instances:
                    instance.holder = None

    def list_nothing(self, times: int | None = None) -> None:
        """Make the next `times` lists of GPU instances empty, even if there are instances."""
        self.inject(Fault(_LIST, empty=True, times=times))

    def lose_handles(self, code: int, times: int | None = None) -> None:
        """Make the driver return `code` for handles that it has listed, as if the instances were gone."""
        self.inject(Fault(_INFO, code, times=times))
        self.answer_vanished(code)

    def answer_vanished(self, code: int) -> None:
        """Set the code for handles of instances that are gone: INVALID_ARGUMENT or NOT_FOUND."""
        with self._store.change() as machine:
            machine.vanished = code

    def time_out(self, late: bool, times: int | None = None) -> None:
        """Make creates time out. The GPU instance exists at once or, if `late`, after `finish_late`."""
        self.inject(Fault(_CREATE, pynvml.NVML_ERROR_TIMEOUT, effect=not late, late=late, times=times))

    def finish_late(self) -> None:
        """Finish the creates that timed out, if their placements are still free."""
        with self._store.change() as machine:
            for create in machine.late:
                gpu = machine.gpus[create.gpu]
                with suppress(RefusedError):
                    profile = gpu.profile(create.driver_id)
                    gpu.create(profile, Placement(create.start, create.size), machine.next_serial())
            machine.late.clear()

    def leave_remnants(self, times: int | None = None) -> None:
        """Make destroys report success without an effect."""
        self.inject(Fault(_DESTROY, pynvml.NVML_SUCCESS, times=times))

    def stand(self, gpu: int, driver_id: int, start: int) -> bool:
        """Make a GPU instance with a compute instance, as another program would. Return whether it fits."""
        with suppress(RefusedError), self._store.change() as machine:
            simulated = machine.gpus[gpu]
            profile = simulated.offered(driver_id)
            instance = simulated.create(profile, Placement(start, profile.size), machine.next_serial())
            simulated.create_compute(instance, _COMPUTE[profile.compute_slices], machine.next_serial())
            return True
        return False

    def standing(self, gpu: int) -> list[GpuInstance]:
        """Return the instances that exist, even if the driver does not list them."""
        return list(self._store.read().gpus[gpu].instances)

    def hide_devices(self) -> None:
        """Make the driver report that there is no GPU."""
        with self._store.change() as machine:
            machine.devices_hidden = True

    def close_devices(self, *mig_uuids: str) -> None:
        """Take these devices from the running containers, as `systemctl daemon-reload` does."""
        with self._store.change() as machine:
            machine.closed.extend(mig_uuids)

    def lose(self, gpu: int, code: int) -> None:
        """Make every call on that GPU return `code`: GPU_IS_LOST or RESET_REQUIRED."""
        with self._store.change() as machine:
            machine.gpus[gpu].lost = code

    def compute(self, gpu: int, processes: int, busy: float = 0.0) -> None:
        """Let programs compute on a GPU without MIG, for `busy` percent of the time."""
        with self._store.change() as machine:
            machine.gpus[gpu].processes, machine.gpus[gpu].busy = processes, busy

    def work(self, gpu: int, start: int, processes: int, busy: float) -> None:
        """Let programs compute on the GPU instance at `start`, for `busy` percent of the time."""
        with self._store.change() as machine:
            for instance in machine.gpus[gpu].instances:
                if instance.start == start:
                    instance.processes, instance.busy = processes, busy

    def set_mig_mode(self, gpu: int, current: int, pending: int) -> None:
        with self._store.change() as machine:
            machine.gpus[gpu].mig_current = current
            machine.gpus[gpu].mig_pending = pending

    def hold(self, gpu: int, start: int, holder: str | None) -> None:
        """Let the process `holder` use the GPU instance at `start`; None: no process uses it."""
        with self._store.change() as machine:
            for instance in machine.gpus[gpu].instances:
                if instance.start == start:
                    instance.holder = holder

    def reset(self, gpu: int) -> None:
        """Do what a reset or a reboot does: remove all GPU instances, and apply a pending MIG mode."""
        with self._store.change() as machine:
            machine.gpus[gpu].instances.clear()
            machine.late = [create for create in machine.late if create.gpu != gpu]
            machine.gpus[gpu].mig_current = machine.gpus[gpu].mig_pending
            machine.gpus[gpu].lost = 0
