"""The state that all processes with one simulated driver share. It can be written as JSON."""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby

import pynvml

from gateway.simulation.catalogue import Kind
from gateway.simulation.gpu import SimulatedGpu


@dataclass(slots=True)
class Fault:
    """A fault of the C function `call`; `*` stands for every function.

    The function sleeps for `delay` seconds, then returns `code` and does nothing. With `effect` it also does
    its work. If `code` is None, the function works and returns as usual. With `code` 0 and no effect, it
    reports a success although it did nothing. With `empty`, a list has no entries. With `late`, a create
    waits for `Faults.finish_late`. The fault happens `times` times; if that is None, until it is cleared.
    """

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
    """A create that timed out and that the driver finishes later."""

    gpu: int
    driver_id: int
    start: int
    size: int


@dataclass(slots=True)
class Machine:
    """The shared state: the GPUs, and the faults that a test switched on. `vanished` is the code for a handle
    of an instance that is gone. `closed` are the UUIDs of devices that the containers cannot open."""

    gpus: list[SimulatedGpu]
    serial: int = 0
    devices_hidden: bool = False
    vanished: int = pynvml.NVML_ERROR_INVALID_ARGUMENT
    faults: list[Fault] = field(default_factory=list)
    late: list[LateCreate] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)

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
