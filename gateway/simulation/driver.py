"""The simulated driver's library. It replaces the shared object that pynvml loads.

pynvml finds each C function by its name, calls the function and raises an error for its return code. All of
that code runs as it does with hardware.
"""

import os
import time
from functools import partial
from typing import Any

import pynvml

from gateway.simulation import compute_instances, devices, gpm, gpu_instances  # noqa: F401 (they register)
from gateway.simulation.c_interface import CHANGES, FUNCTIONS, gpu_index, number, put, target
from gateway.simulation.gpu import RefusedError
from gateway.simulation.machine import Fault, LateCreate, Machine
from gateway.simulation.store import Store


class Library:
    """Its attributes are the C functions. They are partial objects, because pynvml sets `restype` on one of
    them, and a bound method does not allow that."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._users: dict[int, int] = {}
        for name in FUNCTIONS:
            setattr(self, name, partial(self._call, name))
        self.nvmlInitWithFlags = partial(self._init, "nvmlInitWithFlags")
        self.nvmlInit_v2 = partial(self._init, "nvmlInit_v2", 0)
        self.nvmlShutdown = partial(self._shutdown)
        self.nvmlErrorString = partial(_error_string)

    def _init(self, name: str, flags: Any) -> int:
        fault = self._fault(name)
        if fault and fault.code:
            return fault.code
        self._users[os.getpid()] = self._users.get(os.getpid(), 0) + 1
        return int(pynvml.NVML_SUCCESS)

    def _shutdown(self) -> int:
        if not self._initialised():
            return int(pynvml.NVML_ERROR_UNINITIALIZED)
        self._users[os.getpid()] -= 1
        return int(pynvml.NVML_SUCCESS)

    def _initialised(self) -> bool:
        """Whether this process has called nvmlInit. A call before a fork does not count for the child."""
        return self._users.get(os.getpid(), 0) > 0

    def _call(self, name: str, *arguments: Any) -> int:
        if not self._initialised():
            return int(pynvml.NVML_ERROR_UNINITIALIZED)
        try:
            return self._answer(name, *arguments)
        except OSError:  # the disk with the state of the hardware is lost
            return int(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)

    def _answer(self, name: str, *arguments: Any) -> int:
        fault = self._fault(name)
        if fault and fault.code is not None and not fault.effect and not fault.late:
            return fault.code
        try:
            if fault and fault.late:
                self._postpone(*arguments)
            else:
                self._work(name, *arguments)
            if fault and fault.empty:
                put(arguments[-1], 0)
        except RefusedError as refusal:
            return refusal.code
        return fault.code if fault and fault.code is not None else int(pynvml.NVML_SUCCESS)

    def _work(self, name: str, *arguments: Any) -> None:
        if name in CHANGES:
            with self._store.change() as machine:
                FUNCTIONS[name](machine, *arguments)
        else:
            FUNCTIONS[name](self._store.read(), *arguments)

    def _postpone(self, device: Any, driver_id: Any, placement: Any, *_: Any) -> None:
        with self._store.change() as machine:
            place = target(placement)
            machine.late.append(
                LateCreate(gpu_index(machine, device), number(driver_id), place.start, place.size)
            )

    def _fault(self, name: str) -> Fault | None:
        """Count and return the first fault for this call. Its delay is slept without the lock, so that it
        affects only this caller."""
        if not _hits(self._store.read(), name):
            return None
        with self._store.change() as machine:
            fault = _hits(machine, name)
            if fault and fault.times is not None:
                fault.times -= 1
        if fault:
            time.sleep(fault.delay)
        return fault


def _hits(machine: Machine, name: str) -> Fault | None:
    return next((fault for fault in machine.faults if fault.hits(name)), None)


def _error_string(code: Any) -> bytes:
    names = (name for name in dir(pynvml) if name.startswith("NVML_ERROR_"))
    name = next((name for name in names if getattr(pynvml, name) == code), "NVML_ERROR_UNKNOWN")
    return name.removeprefix("NVML_ERROR_").replace("_", " ").capitalize().encode()
