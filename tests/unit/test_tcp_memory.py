"""The limit of a session's TCP buffers, in directories like those of cgroup v1."""

import logging
from pathlib import Path

import pytest

from gateway.repositories.docker.tcp_memory import TcpMemory

ID = "3fdd1e80a7b7"
LIMIT = "memory.kmem.tcp.limit_in_bytes"
UNLIMITED = "9223372036854771712"


@pytest.fixture
def cgroup_v1(tmp_path: Path) -> Path:
    (tmp_path / LIMIT).write_text(UNLIMITED)
    return tmp_path


def group(root: Path, path: str) -> Path:
    (root / path).mkdir(parents=True)
    (root / path / LIMIT).write_text(UNLIMITED)
    return root / path / LIMIT


@pytest.mark.parametrize(
    "path",
    [
        f"docker/{ID}",
        f"system.slice/docker-{ID}.scope",
        f"site/docker/{ID}",
        f"a.slice/b.slice/docker-{ID}.scope",
    ],
)
def test_the_limit_is_set_wherever_docker_makes_the_control_group(cgroup_v1: Path, path: str) -> None:
    own, other = group(cgroup_v1, path), group(cgroup_v1, "docker/another")
    tcp_memory = TcpMemory(cgroup_v1)
    tcp_memory.limit(ID, 2**24)
    assert (own.read_text(), other.read_text()) == (str(2**24), UNLIMITED)
    assert tcp_memory.weakness() is None


def test_a_host_with_cgroup_v2_needs_no_limit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tcp_memory = TcpMemory(tmp_path / "memory")
    tcp_memory.limit(ID, 2**24)
    assert tcp_memory.weakness() is None
    assert caplog.records == []


def test_a_session_whose_control_group_is_hidden_runs_and_the_log_names_it(
    cgroup_v1: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        TcpMemory(cgroup_v1).limit(ID, 2**24)
    (record,) = caplog.records
    assert (record.message, record.__dict__["container_id"]) == (
        "the TCP buffers of a session are not limited",
        ID,
    )


def test_a_kernel_without_the_limit_is_a_weakness(tmp_path: Path) -> None:
    weakness = TcpMemory(tmp_path).weakness()
    assert weakness is not None
    assert "the gateway cannot limit them (no such file or directory): use cgroup v2, or" in weakness
