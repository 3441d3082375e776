"""All that the processes over one simulated driver share; plain enough to be written as JSON."""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby

import pynvml

from gateway.simulation.catalogue import Kind
from gateway.simulation.gpu import SimulatedGpu


@dataclass(slots=True)
class Fault:
    """The C function `call` (`*` is every one) sleeps for `delay` seconds, then reports `code` without
    doing anything; with `effect` it does its work all the same. A `code` of None leaves the work and the
    answer as they are; 0 with no effect is a success that was none. With `empty` a list has no entries.
    With `late` a create is put aside until `Faults.finish_late`. It happens `times` times, or until it is
    cleared."""

    call: str
    code: int | None = None
    effect: bool = False
    delay: float = 0.0
    times: int | None = None
    empty: bool = False
    late: bool = False

    def hits(self, call: str) -> bool:
        return self.call in ("*", call) and self.times != 0


@dataclass(slots=True)
class LateCreate:
    """A GPU instance that the driver gave up on, and makes all the same."""

    gpu: int
    driver_id: int
    start: int
    size: int


@dataclass(slots=True)
class Machine:
    """All that the processes share: the GPUs, and the faults that a test switched on. `vanished` is what
    a call answers for a handle of something that is gone."""

    gpus: list[SimulatedGpu]
    serial: int = 0
    devices_hidden: bool = False
    vanished: int = pynvml.NVML_ERROR_INVALID_ARGUMENT
    faults: list[Fault] = field(default_factory=list)
    late: list[LateCreate] = field(default_factory=list)

    @classmethod
    def of(cls, kinds: Iterable[Kind]) -> "Machine":
        return cls([_gpu(kind) for kind in kinds])

    @property
    def spec(self) -> str:
        runs = groupby(gpu.kind_name for gpu in self.gpus)
        return ",".join(f"{len(list(run))}x{name}" for name, run in runs)

    def next_serial(self) -> int:
        self.serial += 1
        return self.serial


def _gpu(kind: Kind) -> SimulatedGpu:
    mode = pynvml.NVML_DEVICE_MIG_ENABLE if kind.profiles else pynvml.NVML_DEVICE_MIG_DISABLE
    return SimulatedGpu(kind.name, f"GPU-{uuid.uuid4()}", mode, mode)
