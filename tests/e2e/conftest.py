"""Gateways for end-to-end tests."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests import own
from tests.whole_gateway import NETWORK, SUBNET, Gateway, running, take_network_away


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running(Gateway(tmp_path_factory.mktemp("gateway"))) as gateway:
        yield gateway


@pytest.fixture(scope="session", autouse=True)
def _network_of_its_own() -> Iterator[None]:
    take_network_away(NETWORK, SUBNET)
    yield
    take_network_away(NETWORK, SUBNET)


@pytest.fixture
def session(gateway: Gateway) -> Iterator[dict[str, Any]]:
    """Of `own.user("user123")`, with a 3g.20gb; deleted afterwards if it still lives."""
    session = gateway.create(own.user("user123"), mig_profile="3g.20gb")
    yield session
    gateway.delete(session["session_id"])
