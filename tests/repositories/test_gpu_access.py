"""Whether a running container can still open its GPU, by real containers. The kernel's device `autofs` stands
for the GPU: any user may open it, and Docker does not allow it by default."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway.repositories.docker.client import Docker
from gateway.repositories.docker.gpu_access import GpuAccess, Opens, opens_device
from tests import own

GPU_UUID = "MIG-98f3e067-95b3-4520-9709-6238bb14cd07"
Start = Callable[[str | None], str]


@pytest.fixture
def start(docker: Docker) -> Iterator[Start]:
    """Starts a container of a user; the argument has the rights to its device, None: it has no device."""
    with ExitStack() as stack:

        def started(rights: str | None) -> str:
            container = docker.client.containers.run(
                "gpu-workspace",
                ["60"],
                entrypoint="sleep",
                detach=True,
                name=own.name("gpu-access"),
                user="54321:54321",
                cap_drop=["ALL"],
                network_mode="none",
                devices=[f"/dev/autofs:/dev/nvidiactl:{rights}"] if rights else [],
            )
            stack.callback(container.remove, force=True)
            return str(container.id)

        yield started


@pytest.fixture
def opens(docker: Docker) -> Opens:
    return opens_device(docker)


@pytest.mark.parametrize(("rights", "expected"), [("rw", True), ("m", False), (None, False)])
def test_a_container_opens_its_gpu_if_the_node_exists_and_the_cgroup_allows_it(
    start: Start, opens: Opens, rights: str | None, expected: bool
) -> None:
    assert opens(start(rights), GPU_UUID) is expected


def test_a_container_that_loses_its_gpu_while_it_runs_is_found_at_the_next_check(
    start: Start, opens: Opens
) -> None:
    id, now = start("rw"), [0.0]
    rules = Path("/sys/fs/cgroup/devices/docker") / id / "devices.deny"
    if not rules.exists():
        pytest.skip("cgroup v2 has no file with the rules of devices")
    access = GpuAccess(opens, lambda: now[0])
    assert access.lost({id: GPU_UUID}) == set()
    rules.write_text("c 10:235 rwm")  # what a reload of systemd does to the nodes of a GPU
    now[0] += 300
    assert access.lost({id: GPU_UUID}) == {id}


def test_a_container_that_ended_or_is_paused_is_unknown(docker: Docker, start: Start, opens: Opens) -> None:
    id = start("rw")
    access = GpuAccess(opens)
    docker.client.api.pause(id)
    assert access.lost({id: GPU_UUID}) == set()
    docker.client.api.unpause(id)
    docker.client.api.kill(id)
    assert GpuAccess(opens).lost({id: GPU_UUID}) == set()
