"""The units under a real systemd: a session, a login, restarts and a reboot.

`make systemd` builds the image of the server, which takes about two minutes, and then runs these tests.
"""

import time
from collections.abc import Iterator

import pytest

from tests.systemd.server import CHECKOUT, Server, running
from tests.whole_gateway import eventually

SETTINGS = "GATEWAY_SSH_HOST=localhost\nGATEWAY_SIMULATE_GPUS=1xA100-40GB\nGATEWAY_SESSION_MEMORY=4g\n"
UNITS = "gateway", "gateway-router"
# As docs/install.md has it.
INSTALL = f"""\
cd {CHECKOUT}
.venv/bin/pip install --quiet --no-index --no-deps --no-build-isolation --editable .
ln -sf {CHECKOUT}/.venv/bin/gateway /usr/local/bin/gateway
useradd --system --no-create-home --shell /usr/sbin/nologin gpu-ssh-router
cp docker/gateway.service docker/gateway-router.service /etc/systemd/system/
mkdir -m 0700 -p /srv/workspaces
systemctl daemon-reload
systemctl enable --now gateway gateway-router
"""

pytestmark = pytest.mark.may_be_skipped


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running("gpu-workspace") as server:
        server.run(f"(umask 077; printf '{SETTINGS}' > /etc/default/gpu-ssh-gateway)\n{INSTALL}")
        # The router's account is new: the gateway's firewall knows it within a minute.
        eventually(server.is_ready, seconds=90)
        eventually(server.has_entry_point)
        yield server


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
    eventually(server.has_entry_point)
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
