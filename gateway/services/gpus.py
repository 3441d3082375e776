"""Lists what occupies the host's GPUs, and keeps new slices off a GPU."""

from dataclasses import dataclass

from gateway.domain.audit import Action
from gateway.domain.clock import Clock
from gateway.domain.mig import MigPolicy
from gateway.domain.models import Event
from gateway.domain.occupancy import Occupancy
from gateway.errors import GpuNotFound
from gateway.services.ports import Database, Host


@dataclass(frozen=True)
class GpuInventory:
    database: Database
    host: Host
    policy: MigPolicy
    clock: Clock

    def occupancy(self) -> Occupancy:
        gpus = self.host.list_gpus()
        with self.database.read() as rows:
            return Occupancy(gpus, rows.list(), rows.cordons(), self.policy)

    def cordon(self, index: int, reason: str) -> None:
        """Start no new sessions on the GPU until `uncordon`. Its live sessions stay. Raises `GpuNotFound`."""
        gpu = self._uuid(index)
        with self.database.begin() as rows:
            rows.cordon(gpu, reason, self.clock().wall)
            detail = f"GPU {index} {gpu}" + (f": {reason}" if reason else "")
            rows.record(Event.of(self.clock().wall, Action.CORDONED, detail))

    def uncordon(self, index: int) -> None:
        gpu = self._uuid(index)
        with self.database.begin() as rows:
            rows.uncordon(gpu)
            rows.record(Event.of(self.clock().wall, Action.UNCORDONED, f"GPU {index} {gpu}"))

    def _uuid(self, index: int) -> str:
        gpus = {gpu.index: gpu for gpu in self.host.list_gpus()}
        if index not in gpus:
            raise GpuNotFound(index, len(gpus))
        return gpus[index].uuid
