"""What the gateway runs in a session before its lease ends: texts for terminals, the user's hook, SIGTERM."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import ContainerFailed
from gateway.repositories.docker.client import Docker
from gateway.repositories.docker.containers import DockerContainers
from gateway.repositories.docker.network import Worknet
from gateway.repositories.host_parts import ContainerSpec
from gateway.repositories.scripts import Script
from tests.repositories.containers.conftest import docker_containers

TEXT = "\a\r\n *** $(touch /tmp/harm) `id` 'quoted' \"twice\" 100 % \\n ***\r\n"

# Opens a terminal for each argument and says which; what comes out of terminal N is in /tmp/shown-N.
_TERMINALS = r"""
import os, pty, sys, termios, threading, time
def read(number, master):
    with open(f"/tmp/shown-{number}", "wb", buffering=0) as file:
        while True:
            file.write(os.read(master, 4096))

for number, kind in enumerate(sys.argv[1:]):
    master, slave = pty.openpty()

    if kind == "silent":
        os.fchmod(slave, 0o600)
    if kind == "stopped":
        termios.tcflow(slave, termios.TCOOFF)
    if kind == "full":
        os.set_blocking(slave, False)
        written = True
        while written:  # the kernel moves what is written along, and then has room again
            time.sleep(0.3)
            written = False
            try:
                while os.write(slave, b"x" * 4096): written = True
            except BlockingIOError:
                pass
    else:
        threading.Thread(target=read, args=(number, master), daemon=True).start()
with open("/tmp/terminals.new", "w") as file:
    file.write("open")
os.rename("/tmp/terminals.new", "/tmp/terminals")
threading.Event().wait()
"""

_PROCESSES_TO_THE_LIMIT = """
import subprocess
children = []
while True:
    try:
        children.append(subprocess.Popen(["sleep", "60"]))
    except OSError:
        open("/tmp/full", "w").write("yes")
"""
_SAVING = """
import signal, sys, time
def save(*_):
    open("/tmp/saved", "w").write("yes")
    sys.exit()
signal.signal(signal.SIGTERM, save)
open("/tmp/ready", "w").write("yes")
time.sleep(60)
"""


class Session:
    """A running session, with what a test does and sees in it."""

    def __init__(self, containers: DockerContainers, docker: Docker, spec: ContainerSpec) -> None:
        os.chown(spec.workspace, spec.request.uid, spec.request.uid)
        self.containers, self.spec = containers, spec
        self.home = spec.workspace
        self.id = containers.run(spec)
        self.container = docker.client.containers.get(self.id)
        containers.wait_for_ssh(self.id, spec.address)

    def run(self, script: Script, *arguments: str) -> str:
        return self.containers.run_inside(self.id, script, *arguments).strip()

    def start(self, *command: str) -> None:
        self.container.exec_run(list(command), detach=True)

    def read(self, path: str) -> str:
        code, output = self.container.exec_run(["cat", path])
        assert isinstance(output, bytes)
        return output.decode() if code == 0 else ""

    def wait_for(self, path: str) -> str:
        deadline = time.monotonic() + 20
        while not (text := self.read(path)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert text, f"{path} stays empty"
        return text

    def open_terminals(self, *kinds: str) -> None:
        self.start("python3", "-c", _TERMINALS, *kinds)
        self.wait_for("/tmp/terminals")

    def names(self) -> list[str]:
        output: Any = self.container.exec_run(["/bin/sh", "-c", "cat /proc/[0-9]*/comm"]).output
        return str(output.decode()).split("\n")

    def write_hook(self, text: str, mode: int = 0o755) -> Path:
        hook = self.home / ".config/gateway/before-end"
        hook.parent.mkdir(parents=True)
        hook.write_text(text)
        hook.chmod(mode)
        for path in (hook, hook.parent, hook.parent.parent):
            os.chown(path, self.spec.request.uid, self.spec.request.uid)
        return hook


@pytest.fixture
def session(docker: Docker, worknet: Worknet, spec: ContainerSpec) -> Iterator[Session]:
    containers = docker_containers(docker)
    try:
        yield Session(containers, docker, spec)
    finally:
        containers.remove(spec.request.session_id)


def test_every_terminal_gets_the_text_as_it_is(session: Session) -> None:
    session.open_terminals("open", "open")
    assert session.run(Script.TELL, TEXT) == "2"
    for number in (0, 1):
        assert session.wait_for(f"/tmp/shown-{number}").replace("\r", "") == TEXT.replace("\r", "")
    assert session.read("/tmp/harm") == ""


def test_a_session_without_terminals_is_told_nothing(session: Session) -> None:
    assert session.run(Script.TELL, TEXT) == "0"


def test_a_terminal_that_takes_nothing_delays_nothing(session: Session) -> None:
    session.open_terminals("full", "stopped", "silent", "open")
    began = time.monotonic()
    assert session.run(Script.TELL, TEXT) == "1"
    assert time.monotonic() - began < 30
    assert "quoted" in session.wait_for("/tmp/shown-3")
    assert session.read("/tmp/shown-2") == ""


def test_a_pane_of_tmux_gets_the_text_and_the_terminal_around_it_does_not(session: Session) -> None:
    outer = "import pty; pty.spawn(['tmux', 'new-session', '-s', 'work'])"
    session.container.exec_run(["python3", "-c", outer], detach=True, environment={"TERM": "xterm"})
    deadline = time.monotonic() + 20
    while "tmux: client" not in session.names() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert session.run(Script.TELL, TEXT) == "1"
    session.start("/bin/sh", "-c", "tmux capture-pane -p -t work > /tmp/pane")
    assert "quoted" in session.wait_for("/tmp/pane")


def test_a_session_at_its_process_limit_cannot_be_told(session: Session) -> None:
    session.open_terminals("open")
    session.start("python3", "-c", _PROCESSES_TO_THE_LIMIT)
    session.wait_for("/tmp/full")
    with pytest.raises(ContainerFailed):
        session.run(Script.TELL, TEXT)


def test_a_paused_and_a_removed_container_cannot_be_told(session: Session) -> None:
    session.container.pause()
    with pytest.raises(ContainerFailed, match="paused"):
        session.run(Script.TELL, TEXT)
    session.container.unpause()
    session.containers.remove(session.spec.request.session_id)
    with pytest.raises(ContainerFailed):
        session.run(Script.TELL, TEXT)


def test_the_users_hook_runs_once_for_each_lease(session: Session) -> None:
    counts = 'echo "$GATEWAY_SECONDS_LEFT $PWD" >> ~/runs'
    session.write_hook(f"#!/bin/sh\n{counts}\necho said; echo complained >&2\n")
    assert session.run(Script.HOOK, "300", "3600") == "started"
    assert session.wait_for(str(f"/home/{session.spec.request.user_id}/runs")).split()[0] == "300"
    assert session.run(Script.HOOK, "290", "3600") == "already"
    assert session.run(Script.HOOK, "280", "7200") == "started"
    deadline = time.monotonic() + 20
    while len((session.home / "runs").read_text().splitlines()) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    home = f"/home/{session.spec.request.user_id}"
    assert (session.home / "runs").read_text() == f"300 {home}\n280 {home}\n"
    log = session.wait_for(f"{home}/.config/gateway/before-end.log")
    assert log.split() == ["said", "complained"]


def test_a_hook_that_takes_long_delays_nothing(session: Session) -> None:
    session.write_hook("#!/bin/sh\nsleep 60\n")
    began = time.monotonic()
    assert session.run(Script.HOOK, "300", "3600") == "started"
    assert time.monotonic() - began < 30


def test_a_hook_that_cannot_be_run_is_none(session: Session) -> None:
    assert session.run(Script.HOOK, "300", "3600") == "none"
    hook = session.write_hook("#!/bin/sh\n", mode=0o644)
    assert session.run(Script.HOOK, "300", "3600") == "none"
    hook.unlink()
    hook.mkdir(mode=0o755)
    assert session.run(Script.HOOK, "300", "3600") == "none"


def test_a_hook_runs_although_its_output_cannot_be_kept(session: Session) -> None:
    hook = session.write_hook("#!/bin/sh\necho $GATEWAY_SECONDS_LEFT > /tmp/ran\n")
    (hook.parent / "before-end.log").mkdir()
    assert session.run(Script.HOOK, "300", "3600") == "started"
    assert session.wait_for("/tmp/ran") == "300\n"


def test_programs_get_sigterm_and_can_save_while_shells_and_tmux_go_on(session: Session) -> None:
    session.start("python3", "-c", _SAVING)
    session.start("/bin/bash", "-c", "tmux new-session -d -s work; read -r _ < <(sleep 60)")
    session.wait_for("/tmp/ready")
    deadline = time.monotonic() + 20
    while "tmux: server" not in session.names() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert int(session.run(Script.SIGNAL)) >= 1
    assert session.wait_for("/tmp/saved") == "yes"
    left = session.names()
    assert "tmux: server" in left
    assert "sshd" in left
    assert "sleep" not in left
    session.containers.wait_for_ssh(session.id, session.spec.address)


def test_a_session_without_programs_has_nobody_to_signal(session: Session) -> None:
    assert session.run(Script.SIGNAL) == "0"
