"""A control plane of Kubernetes for the tests of this directory. `make test-fleet` builds its programs; a run
without them skips the tests, and fails where `CI` is set."""

from collections.abc import Iterator

import pytest

from tests.fleet import programs
from tests.fleet.control_plane import ControlPlane, control_plane


@pytest.fixture(scope="session")
def programs_of_kubernetes() -> None:
    if missing := programs.missing():
        pytest.skip(f"no {', '.join(missing)} here: `make test-fleet` builds them, in 10 to 30 minutes")


@pytest.fixture(scope="session")
def plane(programs_of_kubernetes: None) -> Iterator[ControlPlane]:
    """Without nodes. A test removes what it makes."""
    with control_plane() as running:
        yield running
