from dataclasses import replace
from typing import Any

import pytest

from gateway.domain.mig import MigMode, Placement
from gateway.domain.states import Reason
from gateway.repositories.kubernetes import facts
from gateway.repositories.kubernetes.facts import DeviceName
from gateway.repositories.kubernetes.pod_facts import PodFacts
from tests.fakes.devices import DRIVER, slices
from tests.fakes.gpus import FakeGpus

READY = {"metadata": {"name": "n1"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}


@pytest.mark.parametrize(
    ("spec", "url"),
    [
        ({"clusterIP": "10.96.0.7", "ports": [{"port": 80}]}, "http://10.96.0.7:80"),
        ({"clusterIP": "fd00::7", "ports": [{"port": 8080}]}, "http://[fd00::7]:8080"),
        ({"clusterIP": "None", "ports": [{"port": 80}]}, None),
        ({"ports": [{"port": 80}]}, None),
        ({"clusterIP": "10.96.0.7"}, None),
    ],
)
def test_a_service_is_reached_by_its_address_and_its_first_port(spec: Any, url: str | None) -> None:
    assert facts.url_of({"spec": spec}) == url


@pytest.mark.parametrize("kind", ["A100-40GB", "A100-80GB", "A30", "H100-80GB"])
def test_published_devices_are_the_gpu_that_the_driver_of_one_server_describes(kind: str) -> None:
    [gpu] = FakeGpus([kind]).list()
    [found] = facts.inventory(slices("n1", [gpu]), [READY]).gpus
    expected = {replace(profile, driver_id=-1) for profile in gpu.profiles}
    assert set(found.profiles) == expected
    assert (found.uuid, found.name, found.memory_mib) == (gpu.uuid, gpu.name, gpu.memory_mib)
    assert (found.memory_slices, found.compute_slices) == (gpu.memory_slices, gpu.compute_slices)
    assert (found.mig_mode, found.simulated, found.fault) == (MigMode.ENABLED, True, None)


def test_a_device_says_its_gpu_its_profile_and_its_memory_slices() -> None:
    [gpu] = FakeGpus(["A100-40GB"]).list()
    devices = facts.inventory(slices("n1", [gpu]), []).devices
    device = devices[DeviceName("n1", "gpu-0-mig-3g20gb-9-4")]
    assert (device.gpu, device.profile, device.placement) == (gpu.uuid, "3g.20gb", Placement(4, 4))
    assert len(devices) == sum(len(profile.placements) for profile in gpu.profiles)


def test_a_standing_slice_of_static_mig_has_its_uuid_and_its_place() -> None:
    capacity = {f"memorySlice{index}": {"value": "1"} for index in (4, 5)} | {"memory": {"value": "9856Mi"}}
    texts = {
        "type": "mig",
        "uuid": "MIG-1",
        "parentUUID": "GPU-1",
        "profile": "2g.10gb",
        "productName": "A100",
    }
    device = {
        "name": "gpu-0-mig-14-4-2",
        "attributes": {name: {"string": text} for name, text in texts.items()},
        "capacity": capacity,
    }
    pool = {"name": "n1", "generation": 1}
    found = facts.inventory([{"spec": {"driver": DRIVER, "pool": pool, "devices": [device]}}], [])
    [slice_] = found.devices.values()
    assert (slice_.mig_uuid, slice_.placement) == ("MIG-1", Placement(4, 2))
    assert found.gpus[0].profiles[0].max_instances == 1


def test_the_node_of_a_gpu_is_the_one_that_its_slices_name() -> None:
    made = list(slices("n1", FakeGpus().list()))
    for each in made:
        each["spec"]["pool"] = {**each["spec"]["pool"], "name": "a-pool"}
    found = facts.inventory(made, [])
    assert [gpu.node for gpu in found.gpus] == ["n1"]
    assert {name.pool for name in found.devices} == {"a-pool"}


def rule(effect: str = "NoSchedule", **selector: str) -> dict[str, Any]:
    taint = {"key": "example.org/repair", "effect": effect}
    return {"metadata": {"name": "repair"}, "spec": {"deviceSelector": selector, "taint": taint}}


@pytest.mark.parametrize(
    ("made", "is_closed"),
    [
        (rule(), True),
        (rule(pool="n1"), True),
        (rule(driver=DRIVER, pool="n1"), True),
        (rule(effect="NoExecute", pool="n1"), True),
        (rule(effect="None", pool="n1"), False),
        (rule(pool="n2"), False),
        (rule(driver="another.driver"), False),
        ({"metadata": {"name": "repair"}, "spec": {"taint": {"effect": "NoSchedule"}}}, False),
    ],
)
def test_a_gpu_that_an_administrators_rule_closes_has_a_fault(made: dict[str, Any], is_closed: bool) -> None:
    found = facts.inventory(slices("n1", FakeGpus().list()), [READY], [made])
    expected = "tainted by the DeviceTaintRule repair" if is_closed else None
    assert {gpu.fault for gpu in found.gpus} == {expected}
    assert found.faults == {}, "its sessions go on"


def test_a_gpu_with_an_open_slice_has_no_fault() -> None:
    made = list(slices("n1", FakeGpus(["A100-40GB"]).list()))
    names = [name.device for name in facts.inventory(made, []).devices]
    rules = [rule(pool="n1", device=name) for name in names]
    assert [gpu.fault for gpu in facts.inventory(made, [], rules[1:]).gpus] == [None]
    assert facts.inventory(made, [], rules).gpus[0].fault


def test_an_older_generation_of_a_pool_and_other_drivers_do_not_count() -> None:
    old, new = FakeGpus(["A100-40GB"]).list(), FakeGpus(["A30"]).list()
    newer = list(slices("n1", new))
    other = list(slices("n2", old))
    for each in newer:
        each["spec"]["pool"] = {**each["spec"]["pool"], "generation": 2}
    for each in other:
        each["spec"]["driver"] = "gpu.example.com"
    for made in ([*slices("n1", old), *newer, *other], [*newer, *slices("n1", old), *other]):
        assert [gpu.uuid for gpu in facts.inventory(made, []).gpus] == [new[0].uuid]


@pytest.mark.parametrize(
    ("node", "fault"),
    [
        ({"spec": {"unschedulable": True}}, "its node n1 is cordoned"),
        ({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}, "its node n1 is not ready"),
    ],
)
def test_a_gpu_on_a_node_that_takes_no_pods_has_a_fault(node: dict[str, Any], fault: str) -> None:
    [gpu] = facts.inventory(slices("n1", FakeGpus().list()), [{"metadata": {"name": "n1"}, **node}]).gpus
    assert gpu.fault == fault


def test_a_tainted_device_is_a_fault_of_its_gpu() -> None:
    made = list(slices("n1", FakeGpus().list()))
    made[1]["spec"]["devices"][0]["taints"] = [
        {"key": "gpu.nvidia.com/xid", "value": "79", "effect": "NoExecute"}
    ]
    [gpu] = facts.inventory(made, [READY]).gpus
    assert gpu.fault == "tainted with gpu.nvidia.com/xid=79"


def test_a_claim_without_an_allocation_has_no_device() -> None:
    assert facts.allocated(None) is None
    assert facts.allocated({"status": {}}) is None
    results = [{"pool": "n1", "device": "gpu-0-mig-1", "driver": DRIVER}]
    claim = {"status": {"allocation": {"devices": {"results": results}}}}
    assert facts.allocated(claim) == DeviceName("n1", "gpu-0-mig-1")


def pod(**status: Any) -> PodFacts:
    return PodFacts.of({"metadata": {"name": "s-1"}, "status": status})


def container(**state: Any) -> list[dict[str, Any]]:
    return [{"name": "session", "state": state}]


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ({"phase": "Running", "containerStatuses": container(running={})}, None),
        ({"phase": "Pending"}, None),
        (
            {"phase": "Succeeded", "containerStatuses": container(terminated={"exitCode": 0})},
            Reason.USER_EXIT,
        ),
        ({"phase": "Failed", "containerStatuses": container(terminated={"exitCode": 1})}, Reason.USER_EXIT),
        ({"phase": "Failed", "containerStatuses": container(terminated={"exitCode": 137})}, Reason.KILLED),
        (
            {
                "phase": "Failed",
                "containerStatuses": container(terminated={"exitCode": 137, "reason": "OOMKilled"}),
            },
            Reason.OUT_OF_MEMORY,
        ),
        ({"phase": "Failed", "reason": "DeadlineExceeded"}, Reason.EXPIRED),
        ({"phase": "Failed", "reason": "Evicted", "message": "disk"}, Reason.STOPPED),
        ({"phase": "Failed", "containerStatuses": container(running={})}, Reason.FAILED),  # its node is gone
    ],
)
def test_a_pod_says_why_it_ended(status: dict[str, Any], reason: Reason | None) -> None:
    assert pod(**status).ended == reason


def test_a_pod_that_no_node_takes_has_a_refusal() -> None:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    message = "0/3 nodes are available: 3 cannot allocate all claims."
    assert pod(conditions=[{**condition, "message": message}]).refusal == message


@pytest.mark.parametrize(
    "message",
    [
        'resourceclaim "s-1" not found',
        "0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims.",
    ],
)
def test_a_pod_whose_other_objects_are_not_seen_yet_waits(message: str) -> None:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    assert pod(conditions=[condition]).refusal is None


def test_a_pod_says_what_it_waits_for() -> None:
    unbound = "pod has unbound immediate PersistentVolumeClaims"
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": unbound}
    assert pod(conditions=[condition]).waits_for == unbound
    creating = container(waiting={"reason": "ContainerCreating"})
    scheduled = {"type": "PodScheduled", "status": "True"}
    assert pod(conditions=[scheduled], containerStatuses=creating).waits_for == "ContainerCreating"
    assert pod(conditions=[scheduled]).waits_for is None


def test_a_pod_without_its_image_cannot_start() -> None:
    found = pod(containerStatuses=container(waiting={"reason": "ErrImagePull", "message": "not found"}))
    assert found.failure == "ErrImagePull: not found"
    assert pod(containerStatuses=container(waiting={"reason": "ContainerCreating"})).failure is None


def test_a_pod_on_a_node_that_does_not_answer_has_a_problem_and_has_not_ended() -> None:
    found = pod(
        phase="Running",
        containerStatuses=container(running={}),
        conditions=[{"type": "Ready", "status": "False"}],
    )
    assert found.problem
    assert "node does not answer" in found.problem
    assert found.is_silent
    assert found.ended is None


def test_a_pod_that_its_kubelet_calls_not_ready_has_no_problem() -> None:
    condition = {"type": "Ready", "status": "False", "reason": "ContainersNotReady"}
    assert pod(phase="Running", conditions=[condition]).problem is None
