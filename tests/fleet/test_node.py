"""A real kubelet and containerd: a pod of the sessions' image gets a slice and gives it back at its end."""

from typing import Any

import pytest

from tests.fleet.api import Api
from tests.fleet.claims import CLAIMS, PODS, ask_for, device_of, is_running, removed_afterwards
from tests.fleet.node import Node, image_of, kernel
from tests.whole_gateway import eventually

SECONDS = 120
STAYS: dict[str, Any] = {"containers": [{
    "name": "session",
    "image": image_of("gpu-workspace"),
    "command": ["sleep", "infinity"],
    "resources": {"claims": [{"name": "gpu"}]},
}]}  # fmt: skip


@pytest.fixture
def api(node: Node) -> Api:
    return node.plane.api()


def test_a_pod_of_the_sessions_image_gets_one_slice(node: Node, api: Api) -> None:
    with removed_afterwards(api, "ann"):
        ask_for(api, "ann", "3g.20gb", **STAYS)
        eventually(lambda: is_running(api, "ann"), SECONDS)
        assert node.slices() == [device_of(api, "ann")]
        listing = node.execute("ann", "nvidia-smi", "-L")
        assert listing.count("UUID: MIG-") == 1
    assert node.slices() == []


def test_a_slice_is_destroyed_before_its_pod_is_gone(node: Node, api: Api) -> None:
    with removed_afterwards(api, "ann"):
        ask_for(api, "ann", "7g.40gb", **STAYS)
        eventually(lambda: is_running(api, "ann"), SECONDS)
        api.delete(PODS, "ann", "default", grace=1)
        eventually(lambda: api.get(PODS, "ann", "default") is None, SECONDS)
        assert node.slices() == []


def test_without_grace_a_pod_is_gone_before_its_slice(node: Node, api: Api) -> None:
    """Why the gateway never deletes a pod with grace 0: here somebody else could get the slice."""
    with removed_afterwards(api, "ann"):
        ask_for(api, "ann", "7g.40gb", **STAYS)
        eventually(lambda: is_running(api, "ann"), SECONDS)
        api.delete(PODS, "ann", "default", grace=0)
        assert api.get(PODS, "ann", "default") is None
        assert node.slices() == ["gpu-0-mig-7g40gb-0-0"]
        api.delete(CLAIMS, "ann", "default")
        eventually(lambda: not node.slices(), SECONDS)


def test_a_killed_kubelet_comes_back_to_its_running_pod(node: Node, api: Api) -> None:
    with removed_afterwards(api, "ann"):
        ask_for(api, "ann", "2g.10gb", **STAYS)
        eventually(lambda: is_running(api, "ann"), SECONDS)
        made = node.slices()
        node.plane.place.stop("kubelet")
        node.start_kubelet()
        with removed_afterwards(api, "bob"):
            ask_for(api, "bob", "2g.10gb", **STAYS)
            eventually(lambda: is_running(api, "bob"), SECONDS)
            assert is_running(api, "ann")
            assert set(made) < set(node.slices())


def test_the_kernel_keeps_its_parameters(node: Node, kernel_before: dict[str, str]) -> None:
    assert kernel() == kernel_before
