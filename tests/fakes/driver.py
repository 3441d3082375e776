"""The simulated driver for the length of a test, in this process."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pynvml

from gateway import simulation
from gateway.simulation.store import Store
from tests.fakes.faults import Faults


@contextmanager
def simulated_driver(spec: str, state_file: Path) -> Iterator[Faults]:
    """Yields the switches of its faults."""
    simulation.install(spec, state_file)
    try:
        yield Faults(Store(state_file))
    finally:
        unload()


def unload() -> None:
    """Make pynvml load the real library, if there is one, at the next nvmlInit."""
    pynvml.nvmlLib = None
    pynvml._nvmlGetFunctionPointer_cache.clear()
