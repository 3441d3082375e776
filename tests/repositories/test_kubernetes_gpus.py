"""The inventory of a cluster's GPUs: when it is read, and from what."""

import pytest

from gateway.errors import KubernetesUnavailable
from gateway.repositories.kubernetes.gpus import ClusterGpus
from tests.fakes.cluster import FakeCluster
from tests.fakes.devices import slices
from tests.fakes.gpus import FakeGpus
from tests.whole_gateway import eventually

_LISTED = "GET resourceslices"


class Ground:
    def __init__(self) -> None:
        self.seconds = 0.0
        self.cluster = FakeCluster(FakeGpus(["A100-40GB"]).list())
        self.gpus = ClusterGpus(self.cluster.api.api, "gpu-sessions", lambda: self.seconds)

    def publish(self, node: str) -> None:
        for found in slices(node, FakeGpus(["A30"]).list()):
            self.cluster.api.put("resourceslices", found)

    def count(self, is_new: bool = False) -> int:
        return len(self.gpus.inventory(is_new).gpus)


@pytest.fixture
def ground() -> Ground:
    return Ground()


def test_slices_are_read_again_only_after_one_has_changed(ground: Ground) -> None:
    first = ground.gpus.inventory()
    ground.cluster.api.requests.clear()
    assert ground.gpus.inventory(is_new=True) is first
    assert ground.cluster.api.requests.count(_LISTED) == 1  # their names and versions alone
    ground.publish("node-2")
    assert ground.count(is_new=True) == 2
    assert ground.cluster.api.requests.count(_LISTED) == 3


def test_a_cordoned_node_is_seen_without_reading_the_slices(ground: Ground) -> None:
    assert ground.gpus.inventory().gpus[0].fault is None
    ground.cluster.api.change("nodes", "", "node-1", {"spec": {"unschedulable": True}})
    ground.cluster.api.requests.clear()
    assert ground.gpus.inventory(is_new=True).gpus[0].fault
    assert ground.cluster.api.requests.count(_LISTED) == 1


def test_nobody_waits_for_an_inventory_that_is_read_again_after_15_s(ground: Ground) -> None:
    assert ground.count() == 1
    ground.publish("node-2")
    ground.seconds = 16
    with ground.cluster.api.lock:  # Kubernetes answers nobody
        assert ground.count() == 1
    eventually(lambda: ground.count() == 2)


def test_an_inventory_older_than_a_minute_does_not_count(ground: Ground) -> None:
    assert ground.count() == 1
    ground.cluster.api.is_down = True
    ground.seconds = 60
    assert ground.count() == 1
    ground.seconds = 61
    with pytest.raises(KubernetesUnavailable):
        ground.gpus.inventory()
