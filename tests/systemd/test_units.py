"""The units under a real systemd: a session, a login, restarts and a reboot.

A privileged container with systemd as its first process and a Docker of its own is the server. `make systemd`
builds its image, which takes about two minutes, and then runs these tests.
"""

import json
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests import own
from tests.paths import REPOSITORY
from tests.whole_gateway import eventually

IMAGE = "gpu-gateway-systemd"
CHECKOUT = "/opt/gpu-ssh-gateway"
SETTINGS = "GATEWAY_SSH_HOST=localhost\nGATEWAY_SIMULATE_GPUS=1xA100-40GB\nGATEWAY_SESSION_MEMORY=4g\n"
UNITS = "gateway", "gateway-router"
# As docs/install.md has it.
INSTALL = f"""\
cd {CHECKOUT}
.venv/bin/pip install --quiet --no-index --no-deps --no-build-isolation --editable .
ln -sf {CHECKOUT}/.venv/bin/gateway /usr/local/bin/gateway
cp docker/gateway.service docker/gateway-router.service /etc/systemd/system/
mkdir -m 0700 -p /srv/workspaces
systemctl daemon-reload
systemctl enable --now gateway gateway-router
ssh-keygen -q -t ed25519 -N '' -f /root/key
"""

pytestmark = pytest.mark.may_be_skipped


class Server:
    """The container that is the server."""

    def __init__(self) -> None:
        self.name = own.name("systemd")

    def start(self) -> None:
        options = ["--privileged", "--cgroupns=private", "--stop-signal=SIGRTMIN+3", "--env=container=docker"]
        options += [f"--tmpfs={path}:exec" for path in ("/run", "/run/lock", "/tmp")]
        options += ["--volume=/var/lib/docker", f"--name={self.name}", "--detach"]
        docker("run", *options, IMAGE)
        self.until_booted()

    def until_booted(self) -> None:
        eventually(lambda: self.succeeds("systemctl is-system-running"), seconds=60)

    def reboot(self) -> None:
        self.succeeds("systemctl reboot")
        docker("wait", self.name)
        docker("start", self.name)
        self.until_booted()

    def run(self, script: str) -> str:
        done = subprocess.run(
            ["docker", "exec", "--interactive", self.name, "bash", "-e"],
            input=script, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout

    def feed(self, source: str, target: str) -> None:
        """Pipe the output of a command here into a command there."""
        pipe = f"{source} | docker exec --interactive {self.name} {target}"
        subprocess.run(pipe, shell=True, check=True, cwd=REPOSITORY, capture_output=True)

    def succeeds(self, command: str) -> bool:
        return not subprocess.run(
            ["docker", "exec", self.name, "sh", "-c", command], capture_output=True
        ).returncode

    def ask(self, method: str, path: str, body: object = None) -> dict[str, object]:
        data = f"--data '{json.dumps(body)}' --header 'Content-Type: application/json'" if body else ""
        answer = self.run(
            f"curl --silent --show-error --fail-with-body -X {method} {data} localhost:8080{path}"
        )
        return json.loads(answer) if answer else {}

    def is_ready(self) -> bool:
        return self.succeeds("curl --silent --fail localhost:8080/readyz")

    def open_session(self) -> dict[str, object]:
        key = self.run("cat /root/key.pub").strip()
        return self.ask("POST", "/sessions", {"user_id": "user123", "ssh_public_keys": [key]})

    def in_session(self, command: str) -> str:
        options = "-n -i /root/key -o BatchMode=yes -o StrictHostKeyChecking=accept-new"
        return self.run(f"ssh {options} user123@localhost '{command}'").strip()


def docker(*arguments: str) -> None:
    subprocess.run(["docker", *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    if subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True).returncode:
        pytest.skip(f"no image {IMAGE} here: `make systemd` builds it")
    server = Server()
    try:
        server.start()
        server.feed("git ls-files -z | tar --create --null --files-from=-", f"tar -x -C {CHECKOUT}")
        server.feed("docker save gpu-workspace", "docker load --quiet")
        server.run(f"(umask 077; printf '{SETTINGS}' > /etc/default/gpu-ssh-gateway)\n{INSTALL}")
        eventually(server.is_ready, seconds=60)
        yield server
    finally:
        subprocess.run(["docker", "rm", "--force", "--volumes", server.name], capture_output=True)


def test_a_session_opens_and_its_user_logs_in(server: Server) -> None:
    session = server.open_session()
    assert server.in_session("id -un; echo kept > data/file") == "user123"
    assert server.run("systemctl --failed --plain --no-legend") == ""
    assert "is not limited" not in str(server.ask("GET", "/readyz"))
    server.ask("DELETE", f"/sessions/{session['session_id']}")


def test_the_tcp_buffers_of_a_session_are_limited_under_the_unit(server: Server) -> None:
    session = server.open_session()
    path = f"/sys/fs/cgroup/memory/docker/{session['container_id']}/memory.kmem.tcp.limit_in_bytes"
    if server.succeeds("test -d /sys/fs/cgroup/memory"):
        assert int(server.run(f"cat {path}")) == 4 * 2**30 // 16
    assert "cannot limit" not in str(server.ask("GET", "/readyz"))
    server.ask("DELETE", f"/sessions/{session['session_id']}")


def test_a_session_outlives_restarts_of_gateway_and_router(server: Server) -> None:
    session = server.open_session()
    server.in_session("nohup sleep 300 > /dev/null 2>&1 &")
    server.run("systemctl restart gateway")
    assert server.in_session("pgrep --count sleep") == "1"
    server.run("systemctl restart gateway-router")
    eventually(lambda: server.succeeds("ssh-keyscan 127.0.0.1 2>/dev/null | grep -q ."))
    assert server.in_session("pgrep --count sleep") == "1"
    server.ask("DELETE", f"/sessions/{session['session_id']}")


def test_a_gateway_that_is_killed_is_started_again(server: Server) -> None:
    server.run("systemctl kill --signal=KILL gateway")
    time.sleep(1)
    eventually(server.is_ready, seconds=60)
    assert server.run("systemctl show --property=NRestarts --value gateway").strip() == "1"


def test_systemd_rates_both_units_as_restricted(server: Server) -> None:
    for unit in UNITS:
        rating = server.run(f"systemd-analyze security --no-pager --threshold=30 {unit}").splitlines()[-1]
        print(rating)
        assert "OK" in rating


def test_after_a_reboot_the_session_has_ended_and_the_workspace_is_kept(server: Server) -> None:
    server.open_session()
    server.in_session("echo kept > data/file")
    server.reboot()
    eventually(server.is_ready, seconds=60)
    eventually(lambda: server.ask("GET", "/sessions")["sessions"] == [])
    assert "restarted" in server.run("gateway events --user user123 | tail -n 1")
    server.open_session()
    assert server.in_session("cat data/file") == "kept"
    assert server.run("systemctl --failed --plain --no-legend") == ""
