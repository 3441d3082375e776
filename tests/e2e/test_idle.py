"""Idle sessions with real containers: what is used or unknown lives, and what is forgotten ends."""

import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.repositories.docker import labels
from gateway.repositories.docker.client import Docker
from tests import own
from tests.whole_gateway import Gateway, eventually, running

WORKING, FORGOTTEN, HUNG, CONNECTED = (own.user(name) for name in ("working", "forgotten", "hung", "there"))
_SECONDS = 330  # a limit of a minute, two readings until it counts, the warning, and a slow machine


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    gateway = Gateway(tmp_path_factory.mktemp("gateway"))
    gateway.settings |= {"GATEWAY_IDLE_MINUTES": "1", "GATEWAY_IDLE_POLICY": "always"}
    with running(gateway):
        yield gateway


def activity(gateway: Gateway, session: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = gateway.get(f"/sessions/{session['session_id']}/activity")
    return found


def signals(gateway: Gateway, session: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["state"] for each in activity(gateway, session)["signals"]}


def test_only_the_session_that_nobody_uses_ends(gateway: Gateway) -> None:
    sessions = {user: gateway.create(user) for user in (WORKING, FORGOTTEN, HUNG, CONNECTED)}
    gateway.in_session(WORKING, "tmux new-session -d 'while :; do :; done'")
    # What an editor leaves behind: programs that wait for a client, and none is connected.
    gateway.in_session(FORGOTTEN, "tmux new-session -d 'sleep infinity'; nohup sleep 999 > /dev/null 2>&1 &")
    with subprocess.Popen(gateway.ssh(CONNECTED, "sleep", "999")) as connection:
        hung = Docker().client.containers.list(
            filters={"label": f"{labels.SESSION}={sessions[HUNG]['session_id']}"}
        )[0]
        hung.pause()
        try:
            path = f"/sessions/{sessions[FORGOTTEN]['session_id']}"
            eventually(lambda: gateway.get(path).get("reason") == "idle", seconds=_SECONDS)
            assert signals(gateway, sessions[WORKING])["cpu"] == "active"
            assert signals(gateway, sessions[WORKING])["connections"] == "idle"
            assert signals(gateway, sessions[CONNECTED])["connections"] == "active"
            assert signals(gateway, sessions[HUNG])["connections"] == "unknown"
            time.sleep(65)  # another round, which must end nobody
            for user in (WORKING, HUNG, CONNECTED):
                assert gateway.get(f"/sessions/{sessions[user]['session_id']}")["status"] == "active"
        finally:
            hung.unpause()
            connection.kill()
    done = gateway.run("why", WORKING)
    assert done.stdout.startswith("ACTIVE: not every signal is idle."), done.stdout + done.stderr
