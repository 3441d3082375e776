"""The administrator's choice of images, and sessions that keep theirs."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway.cli import gateway as command
from gateway.errors import DockerUnavailable, StartRefused
from gateway.settings import Settings
from tests.client import Answer
from tests.conftest import Bench, BenchMaker
from tests.fakes.gpus import FakeGpus

TORCH = "gpu-workspace-torch:2.9"


@pytest.fixture
def bench(bench_of: BenchMaker) -> Bench:
    bench = bench_of(FakeGpus(["A100-40GB"]), images=(("torch", TORCH), ("cuda", "gpu-cuda:12")))
    bench.containers.image_ids[TORCH] = "sha256:torch"
    return bench


def create(bench: Bench, **body: object) -> Answer:
    return bench.client.post("/sessions", json={"user_id": "user123", **body})


def test_a_session_runs_on_the_image_of_its_name(bench: Bench) -> None:
    session = create(bench, image="torch").json
    assert session["image"] == "torch"
    assert bench.containers.image_of(session["session_id"]) == "sha256:torch"


def test_the_form_offers_the_images_that_are_ready(bench: Bench) -> None:
    form = bench.client.get("/ui/create").text
    assert '<option value="torch">torch</option>' in form
    assert '<option value="cuda" disabled>cuda</option>' in form
    fields = {"user_id": "user123", "ttl": "", "image": "torch"}
    answer = bench.client.post("/ui/create", data=fields, headers={"Origin": "http://localhost"})
    assert answer.status_code == 201
    [session] = bench.client.get("/sessions").json["sessions"]
    assert session["image"] == "torch"
    bench.containers.fail("image_id", DockerUnavailable("Docker does not answer."))
    assert bench.client.get("/ui/create").status_code == 200


def test_the_form_has_no_choice_where_there_is_one_image(bench_of: BenchMaker) -> None:
    form = bench_of(FakeGpus(["A100-40GB"])).client.get("/ui/create").text
    assert 'name="image"' not in form


def test_without_a_name_a_session_runs_on_the_default_image(bench: Bench) -> None:
    session = create(bench).json
    assert session["image"] == "default"
    assert bench.containers.image_of(session["session_id"]) == "sha256:1"


def test_a_tag_that_is_moved_changes_only_later_sessions(bench: Bench) -> None:
    first = create(bench, image="torch").json["session_id"]
    bench.containers.image_ids[TORCH] = "sha256:newer"
    bench.reconciler.reconcile()
    assert bench.containers.image_of(first) == "sha256:torch"
    with bench.database.read() as rows:
        assert rows.live(first).image_id == "sha256:torch"
    second = create(bench, user_id="user456", image="torch").json["session_id"]
    assert bench.containers.image_of(second) == "sha256:newer"


def test_the_list_says_why_an_image_is_not_ready(bench: Bench) -> None:
    found = {each["name"]: each for each in bench.client.get("/images").json["images"]}
    assert list(found) == ["default", "torch", "cuda"]
    assert found["torch"]["problem"] is None
    assert found["cuda"]["image"] == "gpu-cuda:12"
    assert "Docker has no image 'gpu-cuda:12'" in found["cuda"]["problem"]
    bench.containers.fail("image_id", DockerUnavailable("Out of reach."))
    assert bench.client.get("/images").json["images"][0]["problem"] == "Out of reach."


def test_an_unknown_name_is_refused_and_a_missing_image_is_not_ready(bench: Bench) -> None:
    refused = create(bench, image="caffe")
    assert refused.status_code == 422
    assert "default, torch, cuda" in refused.json["errors"]["image"][0]
    missing = create(bench, image="cuda")
    assert (missing.status_code, missing.json["type"]) == (503, "/problems/image-missing")
    assert bench.leftovers() == {name: [] for name in bench.leftovers()}


def test_docker_names_are_no_names_of_images(bench: Bench) -> None:
    assert create(bench, image=TORCH).status_code == 422


def test_a_policy_allows_some_images_and_the_first_is_the_default(bench: Bench) -> None:
    bench.client.put("/policies/default", json={"images": ["torch"]})
    refused = create(bench, image="default")
    assert (refused.status_code, refused.json["rule"], refused.json["limit"]) == (403, "images", ["torch"])
    assert create(bench).json["image"] == "torch"
    assert create(bench, user_id="user456", image="default", override=True).json["image"] == "default"


def test_the_commands_list_and_choose_images(
    bench: Bench, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = CliRunner().invoke(command, ["image", "list", "--url", url]).output.splitlines()
    assert [line.split()[:3] for line in listed[:3]] == [
        ["NAME", "IMAGE", "STATE"],
        ["default", "gpu-workspace", "ready"],
        ["torch", TORCH, "ready"],
    ]
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(command, ["create", "user123", "--image", "torch", "--json", "--url", url])
    assert '"image": "torch"' in done.output


@pytest.mark.parametrize("text", ["torch", "torch=", "=x", "default=x", "a=x,a=y", "a b=x", "a=-v"])
def test_a_list_of_images_that_is_none_stops_the_start(text: str) -> None:
    with pytest.raises(StartRefused, match="--images"):
        Settings.load({"GATEWAY_IMAGES": text})


def test_the_names_of_images_are_read_from_the_setting() -> None:
    settings = Settings.load({"GATEWAY_IMAGES": f"torch={TORCH}, cuda=ghcr.io/lab/cuda@sha256:0a"})
    assert settings.named_images == {
        "default": "gpu-workspace",
        "torch": TORCH,
        "cuda": "ghcr.io/lab/cuda@sha256:0a",
    }
