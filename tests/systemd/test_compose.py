"""The compose files on a server whose Docker has run no container yet."""

from collections.abc import Iterator

import pytest

from tests.systemd.server import CHECKOUT, Server, running
from tests.whole_gateway import eventually

FILES = "compose.yaml", "compose.embedded-router.yaml", "compose.simulated-gpus.yaml"

pytestmark = pytest.mark.may_be_skipped


def compose(server: Server, *arguments: str) -> str:
    names = [*FILES]
    if server.succeeds("test -d /sys/fs/cgroup/memory"):
        names.append("compose.cgroup-v1.yaml")
    files = " ".join(f"--file {name}" for name in names)
    settings = "GATEWAY_SSH_HOST=localhost GATEWAY_SESSION_MEMORY=4g"
    return server.run(f"cd {CHECKOUT}/docker; {settings} docker compose {files} {' '.join(arguments)}")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running("gpu-workspace", "gpu-ssh-gateway") as server:
        server.run("mkdir -p /srv/workspaces /var/lib/orchestrator /etc/sshpiper")
        compose(server, "up", "--detach")
        eventually(server.is_ready, seconds=60)
        eventually(server.has_entry_point)
        yield server


def test_a_session_opens_its_user_logs_in_and_a_restart_leaves_it_alone(server: Server) -> None:
    session = server.open_session()
    assert server.in_session("id -un; echo kept > data/file") == "user123"
    compose(server, "restart")
    eventually(server.is_ready, seconds=60)
    eventually(server.has_entry_point)
    assert server.in_session("cat data/file") == "kept"
    [live] = server.ask("GET", "/sessions")["sessions"]
    assert live["session_id"] == session["session_id"]
    server.ask("DELETE", f"/sessions/{session['session_id']}")


def test_the_gateway_limits_tcp_buffers_from_inside_its_container(server: Server) -> None:
    session = server.open_session()
    path = f"/sys/fs/cgroup/memory/docker/{session['container_id']}/memory.kmem.tcp.limit_in_bytes"
    if server.succeeds("test -d /sys/fs/cgroup/memory"):
        assert int(server.run(f"cat {path}")) == 4 * 2**30 // 16
    assert "cannot limit" not in server.ask("GET", "/readyz")["parts"]["docker"]
    server.ask("DELETE", f"/sessions/{session['session_id']}")


def test_docker_finds_the_gateway_healthy(server: Server) -> None:
    show = "docker inspect --format '{{.State.Health.Status}}' gpu-ssh-orchestrator"
    eventually(lambda: server.run(show).strip() == "healthy", seconds=60)
