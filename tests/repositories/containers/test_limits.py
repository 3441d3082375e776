"""What a session may have of the host's memory, processors, disks and network."""

import dataclasses
import os
import re
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from gateway.doctor.attack.catalogue import INSIDE
from gateway.doctor.attack.outcome import Verdict
from gateway.doctor.attack.probe import Targets, judge
from gateway.domain.host_share import Machine
from gateway.errors import ContainerFailed
from gateway.repositories.disk import disk_of
from gateway.repositories.docker.client import Docker
from gateway.repositories.docker.containers import DockerContainers
from gateway.repositories.docker.exec import Inside
from gateway.repositories.docker.network import Worknet
from gateway.repositories.host_parts import ContainerSpec
from tests.repositories.containers.conftest import LIMITS, NO_TARGETS, docker_containers
from tests.whole_gateway import eventually

TCP_GROUP = Path("/sys/fs/cgroup/memory")


@pytest.mark.may_be_skipped
def test_tcp_buffers_are_limited_where_the_memory_limit_leaves_them_out(
    real: DockerContainers, docker: Docker, spec: ContainerSpec
) -> None:
    if not TCP_GROUP.exists():
        pytest.skip("cgroup v2 counts them as memory")
    container_id = real.run(spec)
    [limit] = TCP_GROUP.glob(f"**/*{container_id}*/memory.kmem.tcp.limit_in_bytes")
    assert int(limit.read_text()) == LIMITS.of_slice(0).tcp_bytes == 32 * 2**20
    [probe] = [probe for probe in INSIDE if probe.attempt == "fill_tcp_buffers"]
    nothing: dict[str, Any] = {name: [] for name in NO_TARGETS}
    excess = Targets(neighbour_names=[], memory_mib=1, tcp_mib=96, filler_mib=1, files=1, **nothing)
    outcome = judge(*Inside(docker).run(container_id, probe.command(excess)))
    assert outcome.verdict is Verdict.STOPPED, outcome
    limit.write_text("-1")
    assert judge(*Inside(docker).run(container_id, probe.command(excess))).verdict is Verdict.THROUGH


@pytest.fixture
def workspace_on_a_disk(spec: ContainerSpec) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="gateway-tests-", dir="/var/lib") as name:
        os.chown(name, spec.request.uid, spec.request.uid)
        yield Path(name)


@pytest.mark.may_be_skipped
def test_reading_and_writing_the_disk_is_limited(
    docker: Docker, real: DockerContainers, spec: ContainerSpec, workspace_on_a_disk: Path
) -> None:
    if disk_of(workspace_on_a_disk) is None:
        pytest.skip("no disk holds /var/lib")
    limited = docker_containers(docker, limits=dataclasses.replace(LIMITS, io=2 * 2**20))
    container_id = limited.run(dataclasses.replace(spec, workspace=workspace_on_a_disk))
    for copy in ("if=/dev/zero of=file oflag=direct", "if=file of=/dev/null iflag=direct"):
        code, text = Inside(docker).run(container_id, ["sh", "-c", f"cd ~; dd {copy} bs=1M count=6 2>&1"])
        assert code == 0, text
        seconds = float(re.findall(r"([0-9.]+) s,", text)[0])
        assert 2 < seconds < 10, text


def test_io_on_no_disk_that_can_be_limited_is_refused(docker: Docker, spec: ContainerSpec) -> None:
    containers = docker_containers(docker, limits=dataclasses.replace(LIMITS, io=2**20))
    with pytest.raises(ContainerFailed, match="--session-io cannot be enforced: /proc"):
        containers.run(dataclasses.replace(spec, workspace=Path("/proc")))


_SERVE = """
import socket, time
server = socket.create_server(("", 2300))
while True:
    connection = server.accept()[0]
    if connection.recv(1) == b"r":
        while connection.recv(65536): pass
    else:
        try:
            while True: connection.sendall(bytes(65536))
        except OSError: pass
"""


def bytes_a_second(address: str, *, to_session: bool) -> float:
    """Between the host and a session, over three seconds."""
    with socket.create_connection((address, 2300)) as connection:
        connection.sendall(b"r" if to_session else b"w")
        connection.settimeout(1)
        started, count = time.monotonic(), 0
        while time.monotonic() < started + 3:
            with suppress(TimeoutError):
                count += connection.send(bytes(65536)) if to_session else len(connection.recv(65536))
        return count / 3


def test_the_bandwidth_of_each_direction_is_limited(
    docker: Docker, real: DockerContainers, spec: ContainerSpec
) -> None:
    limited = docker_containers(docker, limits=dataclasses.replace(LIMITS, bandwidth=4 * 2**20))
    container_id = limited.run(spec)
    docker.client.containers.get(container_id).exec_run(["python3", "-c", _SERVE], detach=True)
    eventually(lambda: can_connect(spec.address, 2300))
    for to_session in (True, False):
        assert 2**20 < bytes_a_second(spec.address, to_session=to_session) < 10 * 2**20
    [found] = [one for one in limited.list() if one.session_id == spec.request.session_id]
    assert list(found.deviations) == []


def test_another_bandwidth_holds_for_live_sessions_too(
    docker: Docker, real: DockerContainers, spec: ContainerSpec
) -> None:
    real.run(spec)
    limited = docker_containers(docker, limits=dataclasses.replace(LIMITS, bandwidth=4 * 2**20))
    session_id = spec.request.session_id
    assert [one.deviations for one in limited.list() if one.session_id == session_id] != [()]
    limited.repair(session_id)
    assert [list(one.deviations) for one in limited.list() if one.session_id == session_id] == [[]]


def can_connect(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError:
        return False
    return True


def test_a_larger_slice_brings_more_memory_and_cpus(
    docker: Docker, worknet: Worknet, spec: ContainerSpec
) -> None:
    automatic = dataclasses.replace(
        LIMITS, memory=None, cpus=None, machine=Machine(32 * 2**30, os.cpu_count() or 1)
    )
    containers = docker_containers(docker, limits=automatic)
    limits = {}
    for share in (0.0, 0.5):
        container_id = containers.run(dataclasses.replace(spec, host_share=share))
        found = docker.client.api.inspect_container(container_id)["HostConfig"]
        limits[share] = found["Memory"] / 2**30, found["MemorySwap"] / 2**30, found["NanoCpus"] / 1e9
        [listed] = [each for each in containers.list() if each.id == container_id]
        assert not listed.deviations
        containers.remove(spec.request.session_id)
    assert limits[0.0] == (4, 4, 1)
    assert limits[0.5][:2] == pytest.approx((14.4, 14.4), abs=0.01)
    assert limits[0.5][2] == max(1.0, (os.cpu_count() or 1) / 2)
