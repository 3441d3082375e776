"""What the command line says when it cannot do what was asked: one line, and an exit code that is not 0."""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
import requests

from tests.paths import BIN
from tests.whole_gateway import Gateway, eventually, free_port


@pytest.fixture
def stopped(tmp_path: Path) -> Gateway:
    return Gateway(tmp_path)


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    [line] = done.stderr.strip().splitlines()
    return line


def test_serving_without_a_database_names_the_command_that_makes_it(stopped: Gateway) -> None:
    assert "gateway migrate --db" in one_line(stopped.run("serve"))


def test_a_wrong_setting_is_named(stopped: Gateway) -> None:
    assert "--port (GATEWAY_PORT)" in one_line(stopped.run("serve", "--port", "eighty"))


def test_an_address_beyond_loopback_needs_a_token(stopped: Gateway) -> None:
    stopped.run("migrate")
    assert "gateway token create" in one_line(stopped.run("serve", "--listen", "0.0.0.0"))


def test_a_subnet_that_is_in_use_is_refused_and_named(stopped: Gateway) -> None:
    stopped.run("migrate")
    refused = one_line(stopped.run("serve", "--network", "gwunused", "--subnet", "172.29.0.0/24"))
    assert "172.29.0.0/16, from which Docker takes subnets" in refused
    assert "--subnet (GATEWAY_SUBNET)" in refused


def test_tokens_are_made_listed_and_revoked_on_the_command_line(stopped: Gateway) -> None:
    stopped.run("migrate")
    made = stopped.run("token", "create", "ci", "--role", "user", "--user", "user123", "--expires", "30d")
    assert re.fullmatch(r"gsg_[A-Za-z0-9_-]{43}\n", made.stdout)
    assert "choose another name" in one_line(stopped.run("token", "create", "ci", "--role", "admin"))
    refused = one_line(stopped.run("token", "create", "x", "--role", "admin", "--expires", "soon"))
    assert "neither days" in refused
    assert stopped.run("token", "revoke", "ci").returncode == 0
    listed = stopped.run("token", "list").stdout
    assert re.search(r"^ci +user +user123 .*revoked$", listed, re.M)
    assert made.stdout.strip() not in listed


def test_unknown_gpus_to_simulate_are_named(stopped: Gateway) -> None:
    stopped.run("migrate")
    assert "A100-40GB" in one_line(stopped.run("serve", "--simulate-gpus", "2xVoodoo2"))


def test_a_host_without_a_driver_serves_and_says_so(stopped: Gateway) -> None:
    stopped.gpus = ""
    stopped.run("migrate")
    stopped.start("serve")
    try:
        eventually(lambda: _answers(stopped))
        parts = requests.get(f"{stopped.url}/readyz", timeout=5)
        assert parts.status_code == 503
        assert "driver" in parts.json()["parts"]["gpus"]
        answer = requests.post(f"{stopped.url}/sessions", json={"user_id": "user123"}, timeout=5)
        assert answer.json()["type"] == "/problems/driver-unavailable"
    finally:
        stopped.kill("serve")


def test_a_router_that_cannot_listen_says_so(stopped: Gateway) -> None:
    assert "192.0.2.1" in one_line(stopped.run("router", "--listen", "192.0.2.1:2222"))
    assert "HOST:PORT" in one_line(stopped.run("router", "--listen", "2222"))


def test_plain_gunicorn_serves_the_same_application_and_reaps(stopped: Gateway) -> None:
    stopped.run("migrate")
    stopped.start(
        "serve", BIN / "gunicorn", "--bind", f"127.0.0.1:{stopped.port}", "--threads", "4", "wsgi:app"
    )
    try:
        stopped.until_ready()
        assert "last tick" in stopped.get("/readyz")["parts"]["reaper"]
    finally:
        stopped.kill("serve", signal.SIGTERM)


def test_plain_gunicorn_stops_with_one_line_when_the_database_is_missing(stopped: Gateway) -> None:
    done = subprocess.run(
        [BIN / "gunicorn", "--bind", f"127.0.0.1:{free_port()}", "wsgi:app"],
        env=stopped.environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert "gateway migrate --db" in done.stderr


def test_one_of_several_workers_reaps_and_another_takes_over(stopped: Gateway) -> None:
    stopped.run("migrate")
    stopped.start("serve", BIN / "gateway", "serve", "--workers", "3", "--threads", "2")
    try:
        stopped.until_ready()
        assert stopped.log("serve").count("reaper leads") == 1
        os.kill(_leader(stopped), signal.SIGKILL)
        eventually(lambda: stopped.log("serve").count("reaper leads") == 2, seconds=5)
    finally:
        stopped.kill("serve")


def _leader(gateway: Gateway) -> int:
    """The process that holds the reaper's lock, as the kernel lists it."""
    inode = (gateway.directory / "state/reaper.lock").stat().st_ino
    held = [line.split() for line in Path("/proc/locks").read_text().splitlines() if "->" not in line]
    return next(int(fields[4]) for fields in held if fields[5].endswith(f":{inode}"))


def _answers(gateway: Gateway) -> bool:
    try:
        return requests.get(f"{gateway.url}/healthz", timeout=5).ok
    except requests.ConnectionError:
        return False


def test_a_gateway_on_a_unix_socket_is_asked_there_by_the_command_line(stopped: Gateway) -> None:
    where = stopped.directory / "gateway.sock"
    stopped.settings["GATEWAY_LISTEN"] = stopped.settings["GATEWAY_URL"] = f"unix:{where}"
    assert f"No gateway answers at unix:{where}" in one_line(stopped.run("gpus"))
    stopped.run("migrate")
    stopped.start("serve")
    eventually(where.exists)
    assert "NVIDIA A100" in eventually(lambda: stopped.run("gpus").stdout)
    assert where.stat().st_mode & 0o777 == 0o660
    stopped.kill("serve", signal.SIGTERM)
