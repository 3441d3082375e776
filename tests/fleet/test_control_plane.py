"""The control plane of the tests: a real scheduler allocates slices of fake nodes."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.api import Api
from tests.fleet.claims import PODS, SECONDS, ask_for, device_of, is_running, refusal_of, removed_afterwards
from tests.fleet.control_plane import ControlPlane
from tests.fleet.nodes import Fakelet, add_device_classes, add_node, gpus_of_a_node, remove_node
from tests.paths import REPOSITORY
from tests.whole_gateway import eventually

NODE = "fake-1"


@pytest.fixture(scope="module")
def fakelet(plane: ControlPlane) -> Iterator[Fakelet]:
    """The kubelet of one node with one A100-40GB."""
    gpus, api = gpus_of_a_node(), plane.api()
    add_device_classes(api, gpus)
    add_node(api, NODE, gpus)
    with Fakelet(plane.api()) as running:
        yield running
    remove_node(api, NODE)


@pytest.fixture
def api(plane: ControlPlane, fakelet: Fakelet) -> Api:
    return plane.api()


def test_a_claim_gets_one_device_of_its_profile_and_its_pod_runs(api: Api) -> None:
    with removed_afterwards(api, "ann"):
        ask_for(api, "ann", "3g.20gb")
        assert device_of(api, "ann") in ("gpu-0-mig-3g20gb-9-0", "gpu-0-mig-3g20gb-9-4")
        eventually(lambda: is_running(api, "ann"), SECONDS)


def test_the_scheduler_refuses_a_slice_that_a_full_gpu_has_no_memory_for(api: Api) -> None:
    with removed_afterwards(api, "ann", "bob", "eve"):
        for name in ("ann", "bob"):
            ask_for(api, name, "3g.20gb")
        assert device_of(api, "ann") != device_of(api, "bob")
        ask_for(api, "eve", "1g.5gb")
        assert "cannot allocate all claims" in refusal_of(api, "eve")


def test_a_claim_that_is_removed_frees_its_slice_for_the_next_one(api: Api) -> None:
    with removed_afterwards(api, "bob"):
        with removed_afterwards(api, "ann"):
            ask_for(api, "ann", "7g.40gb")
            device_of(api, "ann")
            ask_for(api, "bob", "7g.40gb")
            refusal_of(api, "bob")
        assert device_of(api, "bob") == "gpu-0-mig-7g40gb-0-0"


def test_a_gpu_has_one_slice_with_media_engines_at_most(api: Api) -> None:
    with removed_afterwards(api, "ann", "bob"):
        ask_for(api, "ann", "1g.5gb+me")
        device_of(api, "ann")
        ask_for(api, "bob", "1g.5gb+me")
        refusal_of(api, "bob")


def test_a_pod_that_its_kubelet_does_not_end_keeps_its_claim(api: Api, fakelet: Fakelet) -> None:
    with removed_afterwards(api, "ann"):
        ask_for(api, "ann", "2g.10gb")
        eventually(lambda: is_running(api, "ann"), SECONDS)
        fakelet.holds.add("ann")
        api.delete(PODS, "ann", "default", grace=1)
        api.delete("resource.k8s.io/v1/resourceclaims", "ann", "default")
        assert device_of(api, "ann").startswith("gpu-0-mig-2g10gb")
        fakelet.holds.remove("ann")


def test_a_killed_api_server_and_scheduler_come_back_with_what_was_there(
    plane: ControlPlane, api: Api
) -> None:
    with removed_afterwards(api, "ann", "bob"):
        ask_for(api, "ann", "3g.20gb")
        device = device_of(api, "ann")
        plane.place.stop("kube-apiserver")
        plane.place.stop("kube-scheduler")
        plane.start_apiserver()
        plane.start_scheduler()
        plane.await_ready()
        assert device_of(api, "ann") == device
        ask_for(api, "bob", "3g.20gb")
        assert device_of(api, "bob") != device


def test_a_control_plane_whose_starter_is_killed_leaves_no_process(programs_of_kubernetes: None) -> None:
    command = [sys.executable, "-m", "tests.fleet.control_plane"]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout
        kubeconfig = next(line for line in starter.stdout if "KUBECONFIG" in line).partition("=")[2].strip()
        directory = Path(kubeconfig).parent
        assert _processes_of(directory)
        os.kill(starter.pid, signal.SIGKILL)
    eventually(lambda: not _processes_of(directory), SECONDS)
    subprocess.run(["rm", "-r", directory], check=True)


def _processes_of(directory: Path) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = process.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(directory) in command:
            found.append(command)
    return found
