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


def test_nothing_is_read_again_while_no_slice_changes(ground: Ground) -> None:
    first = ground.gpus.inventory()
    ground.cluster.api.requests.clear()
    assert ground.gpus.inventory(is_new=True) is first
    assert ground.cluster.api.requests.count(_LISTED) == 2  # the version, and the slices' own versions


def test_only_the_slices_of_a_node_that_has_changed_are_read_again(ground: Ground) -> None:
    for number in range(2, 9):
        ground.publish(f"node-{number}")
    assert ground.count() == 8
    ground.cluster.api.change("resourceslices", "", "node-8-0", {"spec": {"changed": True}})
    ground.cluster.api.requests.clear()
    assert ground.count(is_new=True) == 8
    assert ground.cluster.api.requests.count(_LISTED) == 4  # the versions, the changed slice, and its node


def test_the_gpus_of_a_node_that_is_removed_are_gone(ground: Ground) -> None:
    ground.publish("node-2")
    assert ground.count() == 2
    for found in slices("node-2", FakeGpus(["A30"]).list()):
        ground.cluster.api.remove("resourceslices", "", found["metadata"]["name"])
    assert ground.count(is_new=True) == 1


def test_slices_that_many_nodes_change_are_read_all_at_once(ground: Ground) -> None:
    assert ground.count() == 1
    for number in range(100, 200):
        ground.publish(f"node-{number}")
    ground.cluster.api.requests.clear()
    assert ground.count(is_new=True) == 101
    assert ground.cluster.api.requests.count(_LISTED) < 20


def test_a_cordoned_node_is_seen_without_reading_the_slices(ground: Ground) -> None:
    assert ground.gpus.inventory().gpus[0].fault is None
    ground.cluster.api.change("nodes", "", "node-1", {"spec": {"unschedulable": True}})
    ground.cluster.api.requests.clear()
    assert ground.gpus.inventory(is_new=True).gpus[0].fault
    assert ground.cluster.api.requests.count(_LISTED) == 2


def test_an_inventory_is_renewed_by_asking_for_changes_alone(ground: Ground) -> None:
    first = ground.gpus.inventory()
    ground.cluster.api.requests.clear()
    ground.seconds = 16
    assert ground.gpus.inventory() is first
    eventually(lambda: "GET nodes" in ground.cluster.api.requests)
    assert "watch resourceslices" in ground.cluster.api.requests
    assert _LISTED not in ground.cluster.api.requests


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
