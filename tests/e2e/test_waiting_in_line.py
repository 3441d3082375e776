"""A wait through the front doors: ssh that is held, curl, `gateway create --wait`; kill -9 loses no place."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import own
from tests.whole_gateway import Gateway, eventually, running

ANN, BEN, CEM = own.user("ann"), own.user("ben"), own.user("cem")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running(Gateway(tmp_path_factory.mktemp("line"), gpus="1xA100-40GB")) as gateway:
        yield gateway


@pytest.fixture
def full(gateway: Gateway) -> Iterator[dict[str, Any]]:
    """Ann has the only GPU."""
    yield gateway.create(ANN, mig_profile="7g.40gb", ttl_minutes=60)
    for request in gateway.get("/queue")["requests"]:
        gateway.delete(request["session_id"])
    for session in gateway.get("/sessions")["sessions"]:
        gateway.delete(session["session_id"])


def waits(gateway: Gateway, user: str) -> dict[str, Any]:
    return gateway.wait_in_line(user, mig_profile="7g.40gb")


def test_ssh_is_held_until_the_session_opens(gateway: Gateway, full: dict[str, Any]) -> None:
    request = waits(gateway, BEN)
    command = gateway.ssh(BEN, "id -un; nvidia-smi -L >/dev/null; cat /etc/gateway/lease")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as held:
        assert held.stderr
        line = held.stderr.readline()
        assert "You are 1st in line: yours by " in line
        time.sleep(2)
        assert held.poll() is None
        began = time.monotonic()
        gateway.delete(full["session_id"])
        output, errors = held.communicate(timeout=60)
        seconds = time.monotonic() - began
    print(line, output, errors, f"{seconds:.1f} s from the end of one session to the command in the next")
    assert output.splitlines()[0] == BEN
    assert f"session={request['session_id']}" in output
    assert seconds < 15


def test_kill_9_loses_no_place_and_a_held_login_goes_on(gateway: Gateway, full: dict[str, Any]) -> None:
    ben, cem = waits(gateway, BEN), waits(gateway, CEM)
    with subprocess.Popen(
        gateway.ssh(BEN, "echo inside"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as held:
        assert held.stderr
        held.stderr.readline()
        gateway.kill("serve")
        gateway.serve()
        places = gateway.get("/queue")["requests"]
        assert [(each["session_id"], each["promised_at"]) for each in places] == [
            (each["session_id"], each["promised_at"]) for each in (ben, cem)
        ]
        gateway.delete(full["session_id"])
        assert held.communicate(timeout=60)[0] == "inside\n"


def test_the_command_waits_and_prints_the_line_to_connect_with(
    gateway: Gateway, full: dict[str, Any], tmp_path: Path
) -> None:
    arguments = ("create", BEN, "--profile", "7g.40gb", "--wait", "4h")
    waiting = subprocess.Popen(
        [Path(__file__).parents[2] / ".venv/bin/gateway", *arguments],
        env=gateway.environment,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    eventually(lambda: gateway.get("/queue")["requests"])
    gateway.delete(full["session_id"])
    output, errors = waiting.communicate(timeout=60)
    print(errors, output)
    assert waiting.returncode == 0, errors
    assert "1st in line, by " in errors
    assert output.splitlines()[-1].startswith("Connect with:  ssh -i ")


def test_who_logged_in_once_has_claimed_the_session(gateway: Gateway, full: dict[str, Any]) -> None:
    """By the log of the session's sshd."""
    request = waits(gateway, BEN)
    gateway.delete(full["session_id"])
    eventually(lambda: gateway.get(f"/sessions/{request['session_id']}")["status"] == "active", seconds=30)
    container = gateway.get(f"/sessions/{request['session_id']}")["container_id"]
    assert "Accepted publickey" not in _log(container)
    gateway.in_session(BEN, "true")
    assert "Accepted publickey" in _log(container)


def _log(container: str) -> str:
    done = subprocess.run(["docker", "logs", container], capture_output=True, text=True, timeout=30)
    return done.stdout + done.stderr
