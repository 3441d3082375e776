"""A lease as its user sees it: warned in every terminal, extended, and ended on time."""

import json
import os
import pty
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import requests

from tests import own
from tests.whole_gateway import Gateway, eventually

USER = own.user("user123")


class Terminal:
    """An interactive `ssh` on a terminal of its own."""

    def __init__(self, gateway: Gateway) -> None:
        command = gateway.ssh(USER, options=("-tt",))
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.execvpe(command[0], command, {"PATH": os.environ["PATH"], "TERM": "xterm"})
        self.shown = ""

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def wait_for(self, text: str, seconds: float = 20) -> str:
        """What was shown until `text` was."""

        def is_shown() -> bool:
            while select.select([self.master], [], [], 0)[0]:
                try:
                    self.shown += os.read(self.master, 4096).decode(errors="replace")
                except OSError:  # Linux reports the end of a terminal so
                    break
            return text in self.shown

        eventually(is_shown, seconds)
        return self.shown

    def close(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, 15)
        os.waitpid(self.pid, 0)
        os.close(self.master)


@contextmanager
def terminal(gateway: Gateway) -> Iterator[Terminal]:
    made = Terminal(gateway)
    try:
        made.wait_for("$ ")
        yield made
    finally:
        made.close()


def events(gateway: Gateway, session: dict[str, Any], what: str) -> list[str]:
    found = gateway.get(f"/sessions/{session['session_id']}/events")["events"]
    return [event["detail"] for event in found if event["what"] == what]


def test_a_warning_reaches_each_terminal_and_an_extension_calls_the_end_off(
    gateway: Gateway, session: dict[str, Any]
) -> None:
    id = session["session_id"]
    with terminal(gateway) as one, terminal(gateway) as other:
        other.type("tmux new-session -s work\n")
        eventually(lambda: "work" in gateway.in_session(USER, "tmux list-sessions -F '#S' 2>&1 || true"))
        gateway.expire(id, seconds=600)
        warning = "*** Your lease ends in 10 minutes, at "
        one.wait_for(warning)
        eventually(lambda: events(gateway, session, "warned") == ["10 min, 2 terminals"])
        pane = gateway.in_session(USER, "tmux capture-pane -p -t work")
        assert warning in pane
    assert "Ends soon" in gateway.in_session(USER, "cat /etc/gateway/motd")
    answer = requests.post(f"{gateway.url}/sessions/{id}/extend", json={"minutes": 120}, timeout=30)
    assert answer.status_code == 200
    assert "Ends soon" not in gateway.in_session(USER, "cat /etc/gateway/motd")
    ends = gateway.in_session(USER, "sed -n s/^ends=//p /etc/gateway/lease; echo $GATEWAY_LEASE_ENDS")
    assert ends.split() == [answer.json()["expires_at"]] * 2


def test_the_users_program_runs_and_programs_save_before_the_end(
    gateway: Gateway, session: dict[str, Any]
) -> None:
    hook = "mkdir -p ~/.config/gateway && cd ~/.config/gateway && cat > before-end && chmod +x before-end"
    subprocess.run(
        gateway.ssh(USER, hook),
        input="#!/bin/bash\necho $GATEWAY_SECONDS_LEFT $GATEWAY_MIG_PROFILE > ~/hooked\n",
        text=True,
        check=True,
        timeout=30,
    )
    saving = "tmux new-session -d 'sleep 600'"
    gateway.in_session(USER, saving)
    programs = gateway.in_session(USER, "ps -o comm= -u $(id -u)").split()
    assert "sleep" in programs
    gateway.expire(session["session_id"], seconds=25)
    began = time.monotonic()
    home = gateway.directory / "workspaces" / USER
    eventually(lambda: (home / "hooked").exists() and (home / "hooked").read_text())
    seconds, profile = (home / "hooked").read_text().split()
    assert 15 <= int(seconds) <= 25
    assert profile == "3g.20gb"
    eventually(lambda: events(gateway, session, "signalled"))
    assert "sleep" not in gateway.in_session(USER, "ps -o comm= -u $(id -u)").split()
    eventually(lambda: gateway.leftovers(session["session_id"]) == [], seconds=30)
    assert time.monotonic() - began < 25 + 10


def test_a_message_reaches_the_terminals(gateway: Gateway, session: dict[str, Any]) -> None:
    with terminal(gateway) as one:
        done = gateway.run("message", USER, "The server is restarted at 18:00.")
        assert (done.returncode, done.stdout) == (0, f"{USER}: 1 terminal\n")
        one.wait_for("*** Message from your administrator: The server is restarted at 18:00.")
    assert "The server is restarted" in gateway.in_session(USER, "cat /etc/gateway/motd")


def login(gateway: Gateway) -> str:
    """What `ssh` says to a user without a session."""
    command = gateway.ssh(USER, "true", options=("-o", "LogLevel=INFO"))
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 255
    return done.stderr.replace("\r", "")


def test_an_open_connection_and_the_next_login_say_why_the_session_ended(
    gateway: Gateway, session: dict[str, Any]
) -> None:
    command = gateway.ssh(USER, "sleep 60", options=("-o", "LogLevel=INFO"))
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as connection:
        eventually(lambda: "sleep" in gateway.in_session(USER, "ps -o comm= -u $(id -u)").split())
        done = gateway.run("end", USER, "--yes", "--note", "driver update")
        assert done.returncode == 0, done.stderr
        _, said = connection.communicate(timeout=20)
    sentence = "an administrator ended it: driver update."
    assert sentence in said
    assert sentence in login(gateway)
    assert ":11: no session" in login(gateway)
    gone = gateway.get(f"/sessions/{session['session_id']}")
    assert (gone["status"], gone["reason"], gone["note"]) == (410, "deleted", "driver update")
    again = gateway.create(USER)
    motd = gateway.in_session(USER, "cat /etc/gateway/motd")
    assert f"Last time   ended {said.partition(' ended ')[2].partition(sentence)[0]}{sentence[:-1]}" in motd
    gateway.delete(again["session_id"])


def run_out_of_memory(container_id: str) -> "subprocess.Popen[bytes]":
    """Start a program that takes more memory than the session has. The kernel then kills the main process."""
    format = ("docker", "inspect", "--format", "{{.State.Pid}}", container_id)
    main = subprocess.run(format, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    Path(f"/proc/{main}/oom_score_adj").write_text("1000")
    update = ("docker", "update", "--memory=64m", "--memory-swap=64m", container_id)
    subprocess.run(update, check=True, capture_output=True, timeout=30)
    return subprocess.Popen(["docker", "exec", container_id, "tail", "/dev/zero"])


def test_an_end_by_the_memory_limit_is_told_as_that(gateway: Gateway, session: dict[str, Any]) -> None:
    command = gateway.ssh(USER, "sleep 60", options=("-o", "LogLevel=INFO"))
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as connection:
        eventually(lambda: "sleep" in gateway.in_session(USER, "ps -o comm= -u $(id -u)").split())
        with run_out_of_memory(session["container_id"]) as greedy:
            _, said = connection.communicate(timeout=30)
            greedy.wait(timeout=30)
    assert "it ran out of memory." in said
    eventually(lambda: "it ran out of memory." in login(gateway))


# `lease` inside the session.


def lease(gateway: Gateway, command: str) -> "subprocess.CompletedProcess[str]":
    """As a user types it on a laptop: `ssh gw lease extend 2h`."""
    return subprocess.run(gateway.ssh(USER, command), capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("client", ["curl", "python3"])
def test_a_user_reads_and_extends_the_lease_in_any_image(
    gateway: Gateway, session: dict[str, Any], client: str
) -> None:
    """An image has curl or python3: without curl in its PATH, `lease` takes python3."""
    directory = f"/tmp/with-{client}"
    tools = (
        f"mkdir {directory}; for each in sh sleep {client}; do ln -s $(command -v $each) {directory}; done"
    )
    gateway.in_session(USER, tools)
    run = f"PATH={directory} sh /etc/gateway/bin/lease"
    shown = lease(gateway, run)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith("3g.20gb until ")
    assert " left, can be extended to " in shown.stdout
    before = gateway.get(f"/sessions/{session['session_id']}")
    extended = lease(gateway, f"{run} extend 1h30m")
    assert extended.returncode == 0, extended.stderr
    after = gateway.get(f"/sessions/{session['session_id']}")
    assert after["extended_minutes"] == before["extended_minutes"] + 90
    refused = lease(gateway, f"{run} extend 99999d")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("lease: ")
    wrong = lease(gateway, f"{run} extend soon")
    assert (wrong.returncode, "not a duration" in wrong.stderr) == (1, True)


def test_lease_is_a_command_of_every_session(gateway: Gateway, session: dict[str, Any]) -> None:
    assert lease(gateway, "lease extend 2h").returncode == 0
    [detail] = events(gateway, session, "extended")
    assert detail.startswith("120 min, until ")
    shown = json.loads(lease(gateway, "lease --json").stdout)
    assert (shown["user_id"], shown["extended_minutes"]) == (USER, 120)
    assert "lease extend DURATION" in lease(gateway, "lease --help").stdout
    with terminal(gateway) as one:
        one.type("lease\n")
        one.wait_for(" left, can be extended to ")
    hammered = [lease(gateway, "lease").returncode for _ in range(3)]
    assert set(hammered) <= {0, 75}


def test_a_user_ends_the_session_from_inside(gateway: Gateway, session: dict[str, Any]) -> None:
    unsure = lease(gateway, "lease end")
    assert (unsure.returncode, "give --yes" in unsure.stderr) == (1, True)
    assert lease(gateway, "lease end --yes").returncode in (0, 255)
    eventually(lambda: gateway.leftovers(session["session_id"]) == [], seconds=30)
    assert ": you ended it." in login(gateway)
    ended = gateway.get(f"/sessions/{session['session_id']}/events")["events"]
    assert {event["actor"] for event in ended if event["what"] == "closing"} == {f"{USER} (in session)"}


def test_the_door_survives_a_restart_of_the_gateway(gateway: Gateway, session: dict[str, Any]) -> None:
    gateway.kill("serve")
    down = lease(gateway, "lease")
    assert (down.returncode, "does not answer" in down.stderr) == (75, True)
    gateway.serve()
    eventually(lambda: lease(gateway, "lease").returncode == 0)
