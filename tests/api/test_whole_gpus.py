"""GPUs without MIG, leased whole as `full`: over the fake GPUs and over the simulated driver."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pynvml
import pytest

from gateway.domain.mig import MigMode, host_share
from gateway.repositories.nvml.gpus import Gpus
from tests.api.gpu_answers import gpu, offer
from tests.client import Answer
from tests.conftest import Bench, BenchMaker
from tests.fakes.driver import simulated_driver
from tests.fakes.faults import Faults
from tests.fakes.gpus import FakeGpus

HOST = ["A100-40GB", "L4", "T4"]
On, Off = pynvml.NVML_DEVICE_MIG_ENABLE, pynvml.NVML_DEVICE_MIG_DISABLE
SetMode = Callable[[int, MigMode], None]


@pytest.fixture
def faults(tmp_path: Path) -> Iterator[Faults]:
    with simulated_driver(",".join(f"1x{kind}" for kind in HOST), tmp_path / "simulated-gpus.json") as faults:
        yield faults


@pytest.fixture(params=["fake", "simulated driver"])
def host(request: pytest.FixtureRequest, bench_of: BenchMaker, tmp_path: Path) -> tuple[Bench, SetMode]:
    """An A100, an L4 and a T4, and what changes the MIG mode of one by its index."""
    if request.param == "fake":
        gpus = FakeGpus(HOST, whole_gpus=True)
        return bench_of(gpus), lambda index, mode: gpus.set_mode(gpus.list()[index].uuid, mode)
    faults: Faults = request.getfixturevalue("faults")
    driver = Gpus(tmp_path / "locks", simulated=True, whole_gpus=True)
    codes = {MigMode.ENABLED: (On, On), MigMode.DISABLED: (Off, Off), MigMode.PENDING_RESET: (Off, On)}
    return bench_of(driver), lambda index, mode: faults.set_mig_mode(index, *codes[mode])


@pytest.fixture
def bench(host: tuple[Bench, SetMode]) -> Bench:
    return host[0]


@pytest.fixture
def set_mode(host: tuple[Bench, SetMode]) -> SetMode:
    return host[1]


def create(bench: Bench, user_id: str, profile: str | None = "full") -> Answer:
    wanted = {"mig_profile": profile} if profile else {}
    return bench.client.post("/sessions", json={"user_id": user_id, **wanted})


def opened(bench: Bench, user_id: str, profile: str = "full") -> Any:
    response = create(bench, user_id, profile)
    assert response.status_code == 201, response.text
    return response.json


def test_each_gpu_without_mig_is_leased_to_one_session(bench: Bench) -> None:
    assert (offer(bench, "full")["total"], offer(bench, "full")["available"]) == (2, 2)
    leased = {opened(bench, user)["gpu_uuid"] for user in ("ann", "bob")}
    assert leased == {gpu(bench, 1)["uuid"], gpu(bench, 2)["uuid"]}
    refused = create(bench, "carl")
    assert (refused.status_code, refused.json["type"]) == (503, "/problems/no-capacity")
    assert offer(bench, "full")["available"] == 0
    assert offer(bench, "full")["next_available_at"] is not None


def test_a_whole_gpu_is_listed_with_its_session_and_free_after_it(bench: Bench) -> None:
    session = opened(bench, "ann")
    shown = next(each for each in (gpu(bench, 1), gpu(bench, 2)) if each["uuid"] == session["gpu_uuid"])
    assert shown["memory_slices"] == {"total": 1, "used": 1}
    [piece] = shown["instances"]
    assert (piece["profile"], piece["gpu_uuid"], piece["user_id"]) == ("full", shown["uuid"], "ann")
    assert bench.client.delete(f"/sessions/{session['session_id']}").status_code == 204
    assert offer(bench, "full")["available"] == 2


def test_a_slice_is_the_default_and_mig_gpus_are_not_leased_whole(bench: Bench) -> None:
    response = create(bench, "ann", None)
    assert (response.json["mig_profile"], response.json["gpu_uuid"][:4]) == ("1g.5gb", "MIG-")
    assert gpu(bench, 0)["memory_slices"]["total"] == 8


def test_a_whole_gpu_counts_as_one_gpu_in_the_usage(bench: Bench) -> None:
    opened(bench, "ann")
    bench.clock.advance(minutes=30)
    [line] = bench.client.get("/usage", query_string={"by": "profile"}).json["usage"]
    assert (line["profile"], line["gpu_seconds"]) == ("full", 1800)


def test_a_whole_gpu_has_a_gpu_s_part_of_the_host(bench: Bench) -> None:
    gpus = bench.host.list_gpus()
    shares = [host_share(gpu, gpu.profiles[0].placements[0], gpus) for gpu in gpus]
    assert shares == [1 / 24, 8 / 24, 8 / 24]


def test_the_reconciler_leaves_a_whole_gpu_to_its_session(bench: Bench) -> None:
    session = opened(bench, "ann")
    bench.reconciler.reconcile()
    shown = bench.client.get(f"/sessions/{session['session_id']}").json
    assert (shown["status"], shown["problem"]) == ("active", None)


def test_a_session_on_a_gpu_that_gets_mig_is_closed_and_no_slice_joins_it(
    bench: Bench, set_mode: SetMode
) -> None:
    set_mode(0, MigMode.DISABLED)
    sessions = [opened(bench, user) for user in ("ann", "bob", "carl")]
    whole = next(each for each in sessions if each["gpu_uuid"] == gpu(bench, 0)["uuid"])
    set_mode(0, MigMode.PENDING_RESET)
    bench.reconciler.reconcile()
    assert bench.client.get(f"/sessions/{whole['session_id']}").json["status"] == "active"
    set_mode(0, MigMode.ENABLED)
    assert create(bench, "dora", "1g.5gb").status_code == 503
    bench.reconciler.reconcile()
    ended = bench.client.get(f"/sessions/{whole['session_id']}")
    assert (ended.status_code, ended.json["reason"]) == (410, "gpu_lost")
    opened(bench, "dora", "1g.5gb")


def test_a_gpu_whose_mig_went_off_is_not_leased_whole_beside_a_session(
    bench: Bench, set_mode: SetMode
) -> None:
    opened(bench, "ann", "1g.5gb")
    set_mode(0, MigMode.DISABLED)
    assert [create(bench, user).status_code for user in ("bob", "carl", "dora")] == [201, 201, 503]


@pytest.mark.parametrize("policy", ["static", "mixed"])
def test_whole_gpus_are_leased_with_every_policy(bench_of: BenchMaker, policy: str) -> None:
    bench = bench_of(FakeGpus(HOST, whole_gpus=True), mig_policy=policy)
    assert offer(bench, "full")["total"] == 2
    assert opened(bench, "ann")["gpu_uuid"].startswith("GPU-")


def test_without_the_setting_no_gpu_is_leased_whole(bench_of: BenchMaker) -> None:
    bench = bench_of(FakeGpus(["L4"]))
    refused = create(bench, "ann", None)
    assert refused.status_code == 503
    assert "--whole-gpus" in refused.json["detail"]


def test_a_gpu_on_which_another_program_computes_is_not_leased(
    bench_of: BenchMaker, faults: Faults, tmp_path: Path
) -> None:
    bench = bench_of(Gpus(tmp_path / "locks", simulated=True, whole_gpus=True))
    faults.compute(1, 2)
    assert [(piece["owner"], piece["session_id"]) for piece in gpu(bench, 1)["instances"]] == [
        ("other", None)
    ]
    session = opened(bench, "ann")
    assert session["gpu_uuid"] == gpu(bench, 2)["uuid"]
    assert create(bench, "bob").status_code == 503
    faults.compute(2, 1)  # the session's own program
    [piece] = gpu(bench, 2)["instances"]
    assert piece["user_id"] == "ann"
    faults.compute(1, 0)
    assert opened(bench, "bob")["gpu_uuid"] == gpu(bench, 1)["uuid"]


def test_a_whole_gpu_that_is_lost_only_marks_its_session(
    bench_of: BenchMaker, faults: Faults, tmp_path: Path
) -> None:
    bench = bench_of(Gpus(tmp_path / "locks", simulated=True, whole_gpus=True))
    sessions = [opened(bench, user) for user in ("ann", "bob")]
    faults.lose(1, pynvml.NVML_ERROR_GPU_IS_LOST)
    bench.reconciler.reconcile()
    lost = next(each for each in sessions if each["gpu_uuid"] == gpu(bench, 1)["uuid"])
    shown = bench.client.get(f"/sessions/{lost['session_id']}").json
    assert shown["status"] == "active"
    assert "out of order" in shown["problem"]
    assert bench.client.delete(f"/sessions/{lost['session_id']}").status_code == 204
