"""What a test can make the simulated driver do wrong, while other processes use it."""

from gateway.simulation.machine import Fault
from gateway.simulation.store import Store


class Faults:
    """The switches. Each takes hold at once in every process that shares the state."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def inject(self, fault: Fault) -> None:
        with self._store.change() as machine:
            machine.faults.append(fault)

    def clear(self) -> None:
        """Make the driver well again; instances stay as they are, and no longer held."""
        with self._store.change() as machine:
            machine.faults.clear()
            machine.devices_hidden = False
            for gpu in machine.gpus:
                gpu.lost = 0
                for instance in gpu.instances:
                    instance.holder = None

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
            machine.gpus[gpu].mig_current = machine.gpus[gpu].mig_pending
            machine.gpus[gpu].lost = 0
