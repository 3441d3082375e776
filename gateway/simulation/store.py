"""The state of the simulated hardware, in a file that processes share.

Writers hold a lock and replace the file by a rename. If a process is killed, the file has the state from
before or after its call. Readers need no lock.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gateway.errors import StartRefused
from gateway.simulation.catalogue import Kind
from gateway.simulation.gpu import ComputeInstance, GpuInstance, SimulatedGpu
from gateway.simulation.machine import Fault, LateCreate, Machine


class Store:
    def __init__(self, path: Path) -> None:
        self._path = path.resolve()  # a rename would replace a symbolic link
        self._last: tuple[bytes, Machine] | None = None

    def prepare(self, kinds: Sequence[Kind]) -> None:
        """Create the state for `kinds`, or use the existing one. Raises `StartRefused` if the existing state
        is for other GPUs; it is never overwritten."""
        wanted = Machine.of(kinds)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._locked():
                if not self._path.exists():
                    self._publish(wanted)
                found = self.read()
        except OSError as error:
            raise StartRefused(f"The simulated GPUs cannot be kept in {self._path}: {error}.") from error
        except (ValueError, KeyError, TypeError) as error:
            raise StartRefused(
                f"{self._path} is not a state of simulated GPUs; remove it to begin with fresh ones."
            ) from error
        if found.spec != wanted.spec:
            raise StartRefused(
                f"The simulated driver's state in {self._path} is of {found.spec}, not {wanted.spec}; start "
                f"with --simulate-gpus {found.spec}, or end the sessions on them and remove that file."
            )

    def read(self) -> Machine:
        """Return the state, which must not be changed. It is the same object while the file is unchanged."""
        content = self._path.read_bytes()
        last = self._last
        if last is None or last[0] != content:
            self._last = last = content, _machine(json.loads(content))
        return last[1]

    @contextmanager
    def change(self) -> Iterator[Machine]:
        """Yield the state under the lock. Write it unless the block raises."""
        with self._locked():
            machine = _machine(json.loads(self._path.read_bytes()))
            yield machine
            self._publish(machine)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with open(self._beside(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _publish(self, machine: Machine) -> None:
        draft = self._beside(".new")
        draft.write_text(json.dumps(asdict(machine)) + "\n")
        os.replace(draft, self._path)

    def _beside(self, suffix: str) -> Path:
        return self._path.with_name(self._path.name + suffix)


def _machine(data: dict[str, Any]) -> Machine:
    gpus = [_gpu(gpu) for gpu in data.pop("gpus")]
    faults = [Fault(**fault) for fault in data.pop("faults")]
    late = [LateCreate(**create) for create in data.pop("late", [])]
    return Machine(gpus, faults=faults, late=late, **data)


def _gpu(data: dict[str, Any]) -> SimulatedGpu:
    return SimulatedGpu(instances=[_instance(one) for one in data.pop("instances")], **data)


def _instance(data: dict[str, Any]) -> GpuInstance:
    compute = [ComputeInstance(**one) for one in data.pop("compute_instances")]
    return GpuInstance(compute_instances=compute, **data)
