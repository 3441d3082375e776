"""A simulated NVIDIA driver for machines without a GPU.

It replaces the driver's library below nvidia-ml-py, so all code of nvidia-ml-py and of the gateway runs. The
simulated GPUs refuse what hardware refuses. Only an explicit setting enables the simulation, and its GPUs
are called simulated wherever they are shown.
"""

from collections.abc import Callable
from pathlib import Path

import pynvml

from gateway.simulation.catalogue import parse_spec
from gateway.simulation.driver import Library
from gateway.simulation.store import Store


def install(spec: str, state_file: Path) -> None:
    """Replace the driver by simulated GPUs (`2xA100-40GB,1xL4`) in this process and its children.

    Every process with the same state file has the same GPUs. Raises `StartRefused`."""
    Store(state_file).prepare(parse_spec(spec))
    attach(state_file)


def opens(state_file: Path) -> Callable[[str, str], bool]:
    """Return the check whether a container, by its id, can open the device with a UUID."""
    store = Store(state_file)
    return lambda container_id, gpu_uuid: gpu_uuid not in store.read().closed


def attach(state_file: Path) -> None:
    """Replace the driver by the simulated GPUs of an existing state file, without changing the file."""
    pynvml.nvmlLib = Library(Store(state_file))
    # pynvml caches the functions that it has found, perhaps in another library.
    pynvml._nvmlGetFunctionPointer_cache.clear()
