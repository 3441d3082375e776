"""The network of the gateways that the storm blows over."""

from collections.abc import Iterator

import pytest

from tests.whole_gateway import NETWORK, SUBNET, take_network_away


@pytest.fixture(scope="session", autouse=True)
def _network_of_its_own() -> Iterator[None]:
    take_network_away(NETWORK, SUBNET)
    yield
    take_network_away(NETWORK, SUBNET)
