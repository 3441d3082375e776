"""GPUs whose driver can do wrong."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gateway.domain.mig import Instance, Placement
from gateway.repositories.nvml.gpus import Gpus
from tests.fakes.driver import simulated_driver
from tests.fakes.faults import Faults

CREATE = "nvmlDeviceCreateGpuInstanceWithPlacement"
CREATE_COMPUTE = "nvmlGpuInstanceCreateComputeInstance"


@dataclass
class Bench:
    """Two A100s and a GPU without MIG, their faults, and the pauses that the repository made."""

    faults: Faults
    lock_dir: Path
    pauses: list[float] = field(default_factory=list)
    on_pause: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.gpus = Gpus(self.lock_dir, simulated=True, sleep=self._pause)

    def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.on_pause()

    @property
    def uuid(self) -> str:
        return self.gpus.list()[0].uuid

    def create(self) -> Instance:
        return self.gpus.create(self.uuid, "3g.20gb", Placement(4, 4))

    def destroy(self) -> None:
        self.gpus.destroy(self.uuid, "3g.20gb", Placement(4, 4))

    def standing(self) -> int:
        self.faults.clear()
        return len(self.gpus.list()[0].instances)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with simulated_driver("2xA100-40GB,1xL4", tmp_path / "simulated-gpus.json") as faults:
        yield Bench(faults, tmp_path / "locks")
