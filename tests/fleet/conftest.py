"""A control plane of Kubernetes for the tests of this directory. `make test-fleet` builds its programs; a run
without them skips the tests, and fails where `CI` is set."""

from collections.abc import Iterator

import pytest

from tests.fleet import programs
from tests.fleet.control_plane import ControlPlane, control_plane
from tests.fleet.in_process import fake_node
from tests.fleet.node import Node, kernel, real_node
from tests.fleet.nodes import add_device_classes, gpus_of_a_node


@pytest.fixture(scope="session")
def programs_of_kubernetes() -> None:
    if missing := programs.missing():
        pytest.skip(f"no {', '.join(missing)} here: `make test-fleet` builds them, in 10 to 30 minutes")


@pytest.fixture(scope="session")
def plane(programs_of_kubernetes: None) -> Iterator[ControlPlane]:
    """Without nodes. A test removes what it makes."""
    with control_plane() as running:
        yield running


@pytest.fixture(scope="module")
def cluster(plane: ControlPlane) -> Iterator[ControlPlane]:
    """The control plane with a fake node, which has one A100-40GB."""
    with fake_node(plane):
        yield plane


@pytest.fixture(scope="session")
def kernel_before() -> dict[str, str]:
    return kernel()


@pytest.fixture(scope="session")
def node(kernel_before: dict[str, str], programs_of_kubernetes: None) -> Iterator[Node]:
    """A node with one simulated A100-40GB, and a control plane of its own."""
    with real_node("gpu-workspace") as running:
        add_device_classes(running.plane.api(), gpus_of_a_node())
        yield running
