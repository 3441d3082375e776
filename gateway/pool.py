"""What people ask of the host's GPUs: what is on them, and to keep new slices off one."""

from gateway.audit import What
from gateway.clock import Clock
from gateway.errors import GpuNotFound
from gateway.host import Host
from gateway.mig import MigPolicy
from gateway.models import Event
from gateway.occupancy import Occupancy
from gateway.ports import Database


class Pool:
    def __init__(self, database: Database, host: Host, policy: MigPolicy, clock: Clock) -> None:
        self._database = database
        self._host = host
        self._policy = policy
        self.clock = clock

    def occupancy(self) -> Occupancy:
        gpus = self._host.list_gpus()
        with self._database.read() as rows:
            return Occupancy(gpus, rows.list(), rows.cordons(), self._policy)

    def cordon(self, index: int, reason: str) -> None:
        """No new sessions there until `uncordon`; those that are there stay."""
        gpu = self._uuid(index)
        with self._database.begin() as rows:
            rows.cordon(gpu, reason, self.clock().wall)
            told = f"GPU {index} {gpu}" + (f": {reason}" if reason else "")
            rows.tell(Event.of(self.clock().wall, What.CORDONED, told))

    def uncordon(self, index: int) -> None:
        gpu = self._uuid(index)
        with self._database.begin() as rows:
            rows.uncordon(gpu)
            rows.tell(Event.of(self.clock().wall, What.UNCORDONED, f"GPU {index} {gpu}"))

    def _uuid(self, index: int) -> str:
        gpus = {gpu.index: gpu for gpu in self._host.list_gpus()}
        if index not in gpus:
            raise GpuNotFound(index, len(gpus))
        return gpus[index].uuid
