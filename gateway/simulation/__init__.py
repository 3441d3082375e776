"""A driver to stand beneath nvidia-ml-py where there is no GPU.

Machines without a GPU develop, demonstrate and test the gateway; this package lets them run all of
nvidia-ml-py's own code, and all of ours above it, over GPUs that refuse what hardware refuses. It is
chosen by an explicit setting only, and what it serves is called simulated wherever it is shown.
"""

from pathlib import Path

import pynvml

from gateway.simulation.catalogue import parse_spec
from gateway.simulation.driver import Library
from gateway.simulation.store import Store


def install(spec: str, state_file: Path) -> None:
    """Put simulated GPUs (`2xA100-40GB,1xL4`) in the driver's place, in this process and its children.

    Every process that names the same state file sees the same GPUs."""
    Store(state_file).prepare(parse_spec(spec))
    attach(state_file)


def attach(state_file: Path) -> None:
    """The same over a state that is there already; nothing is made or changed by looking at it."""
    pynvml.nvmlLib = Library(Store(state_file))
    # pynvml remembers each function that it looked up, maybe in another library.
    pynvml._nvmlGetFunctionPointer_cache.clear()
