"""What befalls GPUs and slices while sessions are on them, seen through a gateway that serves.

The reaper looks at its start and then each minute; a restart makes it look at once.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pynvml
import pytest
import requests

from gateway.domain.mig import Placement
from gateway.repositories.nvml.gpus import Gpus
from tests import own
from tests.fakes.driver import simulated_driver
from tests.fakes.faults import Faults
from tests.whole_gateway import Gateway, eventually, running, take_network_away

SECOND_NETWORK, SECOND_SUBNET = own.name("second"), own.subnet(214)
ANN, BOB, CARL, DORA, LATE = map(own.user, ("ann", "bob", "carl", "dora", "late"))


@dataclass
class Ground:
    """A gateway over two A100-40GB, and an administrator who has the driver at hand."""

    gateway: Gateway
    driver: Gpus
    faults: Faults

    def restart(self, **settings: str) -> None:
        """The gateway, with `settings` and no others; its reaper looks again."""
        self.gateway.kill("serve")
        self.gateway.settings = settings
        self.gateway.serve()

    def partition(self, index: int, profile: str, start: int, size: int) -> str:
        """An administrator's own instance; its UUID."""
        gpu = self.driver.list()[index]
        made = self.driver.create(gpu.uuid, profile, Placement(start, size))
        assert made.mig_uuid
        return made.mig_uuid

    def standing(self) -> set[str | None]:
        """The UUIDs of all instances, as the driver lists them."""
        return {instance.mig_uuid for gpu in self.driver.list() for instance in gpu.instances}

    def gpu(self, index: int) -> Any:
        return self.gateway.get("/gpus")["gpus"][index]

    def gpu_of(self, session: dict[str, Any]) -> int:
        return next(
            int(gpu["index"])
            for gpu in self.gateway.get("/gpus")["gpus"]
            if session["gpu_uuid"] in {piece["gpu_uuid"] for piece in gpu["instances"]}
        )

    def refusal(self, user_id: str, profile: str) -> str:
        """Why there is no room for a session: the detail of the 503."""
        body = {"user_id": user_id, "mig_profile": profile}
        answer = requests.post(f"{self.gateway.url}/sessions", json=body, timeout=60)
        assert (answer.status_code, answer.json()["type"]) == (503, "/problems/no-capacity"), answer.text
        return str(answer.json()["detail"])

    def slice_in_session(self, user_id: str) -> str:
        return self.gateway.in_session(user_id, "echo $NVIDIA_VISIBLE_DEVICES").strip()

    def session(self, session: dict[str, Any]) -> Any:
        return self.gateway.get(f"/sessions/{session['session_id']}")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running(Gateway(tmp_path_factory.mktemp("gpus"))) as gateway:
        yield gateway


@pytest.fixture
def ground(gateway: Gateway) -> Iterator[Ground]:
    """Nothing stands there before a test nor after it, and the policy is `dynamic`."""
    with simulated_driver("2xA100-40GB", gateway.directory / "state/simulated-gpus.json") as faults:
        ground = Ground(gateway, Gpus(gateway.directory / "locks", simulated=True), faults)
        yield ground
        faults.clear()
        for session in gateway.get("/sessions")["sessions"]:
            assert gateway.delete(session["session_id"]).status_code == 204
        for index in range(2):
            faults.reset(index)
        if gateway.settings:
            ground.restart()


def test_a_cordon_keeps_new_sessions_off_a_gpu_and_those_on_it_stay(ground: Ground) -> None:
    gateway = ground.gateway
    ann = gateway.create(ANN, mig_profile="3g.20gb")
    cordoned = ground.gpu_of(ann)
    assert gateway.run("gpus", "cordon", str(cordoned), "--reason", "the fan").returncode == 0
    assert f"GPU {cordoned}" in gateway.run("gpus").stdout
    assert "cordoned: the fan" in gateway.run("gpus").stdout
    others = [gateway.create(user, mig_profile="3g.20gb") for user in (BOB, CARL)]
    assert [ground.gpu_of(session) for session in others] == [1 - cordoned] * 2
    assert f"GPU {cordoned} takes no sessions: cordoned: the fan" in ground.refusal(DORA, "3g.20gb")
    assert ground.slice_in_session(ANN) == ann["gpu_uuid"]
    assert gateway.run("gpus", "uncordon", str(cordoned)).returncode == 0
    assert ground.gpu_of(gateway.create(DORA, mig_profile="3g.20gb")) == cordoned


def test_a_reset_of_a_gpu_ends_its_session_as_gpu_lost_and_no_other(ground: Ground) -> None:
    gateway = ground.gateway
    ann, bob = (gateway.create(user, mig_profile="7g.40gb") for user in (ANN, BOB))
    ground.faults.reset(ground.gpu_of(ann))
    ground.restart()
    eventually(lambda: gateway.leftovers(ann["session_id"]) == [])
    assert ground.session(ann)["reason"] == "gpu_lost"
    assert gateway.refused(ANN)
    assert ground.slice_in_session(BOB) == bob["gpu_uuid"]
    assert ground.standing() == {bob["gpu_uuid"]}
    gateway.create(ANN, mig_profile="7g.40gb")
    assert gateway.in_session(ANN, "ls").split() == ["data", "projects"]


def test_a_gpu_that_is_lost_ends_nothing_and_works_again_when_it_is_back(ground: Ground) -> None:
    gateway = ground.gateway
    ann, bob = (gateway.create(user, mig_profile="4g.20gb") for user in (ANN, BOB))
    index = ground.gpu_of(ann)
    ground.faults.lose(index, pynvml.NVML_ERROR_GPU_IS_LOST)
    assert (ground.gpu(index)["healthy"], ground.gpu(index)["reason"]) == (False, "GPU is lost")
    assert f"GPU {index} takes no sessions: GPU is lost." in ground.refusal(CARL, "7g.40gb")
    ground.restart()
    eventually(lambda: ground.session(ann)["problem"])
    assert ground.session(bob)["problem"] is None
    assert gateway.in_session(ANN, "hostname").strip() == f"{ANN}-gpu"
    ground.faults.clear()
    others = [gateway.create(user, mig_profile="3g.20gb") for user in (CARL, DORA)]
    assert {ground.gpu_of(session) for session in others} == {0, 1}
    ground.restart()
    eventually(lambda: ground.session(ann)["problem"] is None)
    assert ground.session(ann)["status"] == ground.session(bob)["status"] == "active"


def test_static_slices_are_leased_and_left_standing(ground: Ground) -> None:
    gateway = ground.gateway
    large, small = ground.partition(0, "3g.20gb", 4, 4), ground.partition(1, "1g.5gb", 0, 1)
    ground.restart(GATEWAY_MIG_POLICY="static")
    ann = gateway.create(ANN, mig_profile="3g.20gb")
    assert ann["gpu_uuid"] == ground.slice_in_session(ANN) == large
    ground.refusal(BOB, "3g.20gb")
    assert gateway.create(BOB)["gpu_uuid"] == small
    assert ground.standing() == {large, small}
    assert gateway.delete(ann["session_id"]).status_code == 204
    ground.restart(GATEWAY_MIG_POLICY="static")
    assert ground.standing() == {large, small}
    assert gateway.create(CARL, mig_profile="3g.20gb")["gpu_uuid"] == large


def test_mixed_leases_an_idle_slice_that_fits_exactly_and_makes_one_else(ground: Ground) -> None:
    gateway = ground.gateway
    idle, too_large = ground.partition(0, "3g.20gb", 4, 4), ground.partition(1, "7g.40gb", 0, 8)
    ground.restart(GATEWAY_MIG_POLICY="mixed")
    ann, bob = (gateway.create(user, mig_profile="3g.20gb") for user in (ANN, BOB))
    assert ann["gpu_uuid"] == ground.slice_in_session(ANN) == idle
    assert bob["gpu_uuid"] == ground.slice_in_session(BOB) not in (idle, too_large)
    ground.refusal(CARL, "3g.20gb")
    for session in (ann, bob):
        assert gateway.delete(session["session_id"]).status_code == 204
    assert ground.standing() == {idle, too_large}


def test_somebody_elses_slices_survive_everything(ground: Ground) -> None:
    gateway = ground.gateway
    theirs = {ground.partition(0, "2g.10gb", 0, 2), ground.partition(1, "3g.20gb", 4, 4)}
    sessions = [gateway.create(user, mig_profile="3g.20gb") for user in (ANN, BOB)]
    ground.refusal(CARL, "3g.20gb")
    ground.restart()
    pieces = [piece for index in range(2) for piece in ground.gpu(index)["instances"]]
    assert {piece["gpu_uuid"] for piece in pieces if piece["owner"] == "other"} == theirs
    shown = gateway.run("gpus").stdout
    assert shown.count("|other ") == 2
    assert all(gpu_uuid in shown for gpu_uuid in theirs)
    for session in sessions:
        assert gateway.delete(session["session_id"]).status_code == 204
    ground.restart()
    assert ground.standing() == theirs


@pytest.fixture
def second(gateway: Gateway, tmp_path: Path) -> Iterator[Gateway]:
    """Another gateway on the same Docker and the same driver, which knows nothing of the first."""
    (tmp_path / "state").mkdir()
    driver = "state/simulated-gpus.json"
    (tmp_path / driver).symlink_to(gateway.directory / driver)
    settings = {"GATEWAY_NETWORK": SECOND_NETWORK, "GATEWAY_SUBNET": SECOND_SUBNET}
    take_network_away(SECOND_NETWORK, SECOND_SUBNET)
    with running(Gateway(tmp_path, settings=settings)) as second:
        yield second
    take_network_away(SECOND_NETWORK, SECOND_SUBNET)


def test_two_gateways_on_one_driver_are_both_right(ground: Ground, second: Gateway) -> None:
    gateways = [ground.gateway, second]
    wanted = [
        (gateway, own.user(f"{name}{n}"))
        for n in range(4)
        for gateway, name in zip(gateways, "ab", strict=True)
    ]

    def create(one: tuple[Gateway, str]) -> requests.Response:
        body = {"user_id": one[1], "mig_profile": "2g.10gb"}
        return requests.post(f"{one[0].url}/sessions", json=body, timeout=60)

    with ThreadPoolExecutor(len(wanted)) as pool:
        answers = list(pool.map(create, wanted))
    opened = [answer.json()["gpu_uuid"] for answer in answers if answer.status_code == 201]
    assert {answer.status_code for answer in answers} == {201, 503}
    assert len(set(opened)) == len(opened) >= 5
    for gateway in gateways:
        gateway.kill("serve")
        gateway.serve()
    assert ground.standing() == set(opened)
    held = [{s["gpu_uuid"] for s in gateway.get("/sessions")["sessions"]} for gateway in gateways]
    assert held[0] | held[1] == set(opened)
    for session in ground.gateway.get("/sessions")["sessions"]:
        assert ground.gateway.delete(session["session_id"]).status_code == 204
    assert ground.standing() == held[1]
    late = second.create(LATE, mig_profile="2g.10gb")
    assert second.in_session(LATE, "echo $NVIDIA_VISIBLE_DEVICES").strip() == late["gpu_uuid"]


def test_a_session_that_loses_its_gpu_stays_and_says_what_to_do(ground: Ground) -> None:
    """As after `systemctl daemon-reload` on a host with cgroup v2."""
    lost, kept = (ground.gateway.create(user, mig_profile="1g.5gb") for user in (ANN, BOB))
    ground.faults.close_devices(lost["gpu_uuid"])
    ground.restart()
    eventually(lambda: ground.session(lost)["problem"])
    assert "cannot open the GPU any more: save the work" in ground.session(lost)["problem"]
    assert ground.session(lost)["status"] == "active"
    assert ground.gateway.in_session(ANN, "echo alive").strip() == "alive"
    assert ground.session(kept)["problem"] is None
    metrics = requests.get(f"{ground.gateway.url}/metrics", timeout=60).text
    assert "gpu_gateway_gpus_lost_inside_total 1.0" in metrics
    ground.faults.clear()
    ground.restart()
    eventually(lambda: ground.session(lost)["problem"] is None)
