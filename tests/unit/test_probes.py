"""The reports of the probes, run here where some attacks succeed, and the judgement of the reports."""

import inspect
import json
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from gateway.doctor.attack.catalogue import INSIDE
from gateway.doctor.attack.inside import door, network, report, resources
from gateway.doctor.attack.outcome import Outcome, Verdict
from gateway.doctor.attack.probe import Probe, Targets, judge
from tests.whole_gateway import eventually

TARGETS: dict[str, Any] = {
    "neighbours": ["127.0.0.1"],
    "neighbour_names": ["localhost"],
    "neighbour_sessions": ["an-id"],
    "users": [],
    "hosts": [],
    "links": [],
    "ports": [9],
    "memory_mib": 1,
    "tcp_mib": 1,
    "filler_mib": 1,
}


def run_here(probe: Probe, **changes: Any) -> Outcome:
    command = probe.command(Targets(**TARGETS | changes))
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return judge(done.returncode, done.stdout)


def test_a_target_that_refuses_was_reached() -> None:
    by_address = Probe("x", network, "reach_tcp", {"addresses": "neighbours", "ports": "ports"})
    assert run_here(by_address) == Outcome(Verdict.THROUGH, "127.0.0.1 port 9 answers")
    by_udp = Probe("x", network, "reach_udp", {"addresses": "neighbours", "ports": "ports"})
    assert run_here(by_udp).verdict == Verdict.THROUGH
    by_name = Probe("x", network, "reach_by_name", {"names": "neighbour_names", "ports": "ports"})
    assert run_here(by_name).verdict == Verdict.THROUGH


def test_a_refusal_proves_nothing_where_a_firewall_may_refuse() -> None:
    def found(attempt: str, addresses: str = "addresses", targets: str = "neighbours") -> Outcome:
        parameters = {addresses: targets, "ports": "ports", "refusals": "refusals"}
        return run_here(Probe("x", network, attempt, parameters), refusals=False)

    assert found("reach_tcp").verdict == Verdict.STOPPED
    assert found("reach_udp").verdict == Verdict.STOPPED
    assert found("reach_by_name", "names", "neighbour_names").verdict == Verdict.STOPPED
    with socket.create_server(("127.0.0.1", 0)) as service:
        port = service.getsockname()[1]
        by_address = Probe("x", network, "reach_tcp", {"addresses": "neighbours", "ports": "ports"})
        reached = run_here(by_address, ports=[port], refusals=False)
    assert reached == Outcome(Verdict.THROUGH, f"127.0.0.1 port {port} answers")


class Api(BaseHTTPRequestHandler):
    """Lets `mine` see its own session, or everything where it `trusts` anybody."""

    trusts: ClassVar[bool] = False
    asked: ClassVar[list[str]] = []

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline()
        if self.parse_request():
            token = (self.headers["Authorization"] or "").removeprefix("Bearer ")
            self.asked.append(f"{self.command} {self.path} {token}")
            self.send_response_only(200 if self.trusts and token != "session-mine.mac" else 404)
            self.end_headers()


@pytest.fixture
def http_door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Api]]:
    """As the sessions of a cluster have one: the file with a URL and a token."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        (tmp_path / "door").write_text(f"http://127.0.0.1:{server.server_port}\nsession-mine.mac\n")
        monkeypatch.setattr(door, "_URL", str(tmp_path / "door"))
        Api.trusts = False
        Api.asked.clear()
        yield Api
        server.shutdown()


def test_at_a_door_with_a_token_another_session_is_asked_for(http_door: type[Api]) -> None:
    with pytest.raises(PermissionError, match="does not exist here"):
        door.ask_for_another(["other"])
    assert "GET /sessions/other session-mine.mac" in http_door.asked
    assert "GET /sessions/other session-other.mac" in http_door.asked, "the own proof with another id"


def test_a_door_that_accepts_a_forged_token_is_reported(http_door: type[Api]) -> None:
    http_door.trusts = True
    assert door.ask_for_another(["other"]) == "a forged token of the session other is accepted"


def test_a_session_without_a_door_has_nothing_to_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "_URL", str(tmp_path / "door"))
    (tmp_path / "door").write_text("")
    with pytest.raises(NotImplementedError, match="no door"):
        door.take_more_rights()


def test_an_attempt_that_fills_a_directory_succeeded(tmp_path: Any) -> None:
    fill = Probe("x", resources, "fill", {"directories": "scratch", "most_mib": "filler_mib"})
    assert run_here(fill, scratch=[str(tmp_path)]) == Outcome(Verdict.THROUGH, f"1 MiB in {tmp_path}")
    assert list(tmp_path.iterdir()) == []


def test_the_error_that_stopped_an_attempt_is_reported() -> None:
    fill = Probe("x", resources, "fill", {"directories": "scratch", "most_mib": "filler_mib"})
    stopped = run_here(fill, scratch=["/nowhere"])
    assert stopped == Outcome(Verdict.STOPPED, "/nowhere: No such file or directory")


@pytest.mark.parametrize(
    "output", ["", "Traceback", '{"verdict": "through"}', '{"verdict": "?", "why": ""}', "1"]
)
def test_an_attempt_that_could_not_run_is_unclear(output: str) -> None:
    assert judge(0, output).verdict == Verdict.UNCLEAR


def test_an_attempt_that_failed_after_its_report_is_unclear() -> None:
    assert judge(1, '{"verdict": "stopped", "why": "x"}').verdict == Verdict.UNCLEAR


SCRIPT = """
import os, signal, sys, time
LIMIT_STOPS = True
def clean(directory): os.unlink(directory + "/left")
def killed(directory):
    open(directory + "/left", "w").close()
    os.kill(os.getpid(), signal.SIGKILL)
def abandoning(directory):
    open(directory + "/left", "w").close()
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
    open(directory + "/child", "w").write(str(pid))
    raise PermissionError("no")
def failing(directory):
    open(directory + "/left", "w").close()
    raise ValueError("a fault of the attempt")
"""


def run_script(attempt: str, directory: Path, kills: Sequence[int] = (0, 0)) -> Outcome:
    """`kills` is what the kernel says of the session's memory limit, before and after the attempt."""
    counter = f"_counts = iter({list(kills)})\ndef _kills(): return next(_counts)"
    source = "\n".join((SCRIPT, inspect.getsource(report), counter, "report(globals())"))
    arguments = json.dumps({"directory": str(directory)})
    done = subprocess.run(["python3", "-c", source, attempt, arguments], capture_output=True, text=True)
    assert not (directory / "left").exists()
    return judge(done.returncode, done.stdout or done.stderr)


def test_an_attempt_that_the_memory_limit_killed_is_stopped_and_its_files_are_removed(tmp_path: Path) -> None:
    assert run_script("killed", tmp_path, (3, 4)) == Outcome(
        Verdict.STOPPED, "killed by the kernel at the session's memory limit"
    )


def test_an_attempt_that_was_killed_by_something_else_is_unclear(tmp_path: Path) -> None:
    assert run_script("killed", tmp_path, (3, 3)).verdict == Verdict.UNCLEAR


def test_an_attempt_that_fails_by_itself_is_unclear(tmp_path: Path) -> None:
    outcome = run_script("failing", tmp_path)
    assert outcome.verdict == Verdict.UNCLEAR
    assert "a fault of the attempt" in outcome.why


def test_processes_that_an_attempt_leaves_are_killed(tmp_path: Path) -> None:
    assert run_script("abandoning", tmp_path) == Outcome(Verdict.STOPPED, "no")
    child = Path("/proc") / (tmp_path / "child").read_text()
    eventually(lambda: not child.exists() or ") Z " in (child / "stat").read_text())


def test_each_probe_names_an_attempt_targets_and_what_it_tries() -> None:
    targets = Targets(**TARGETS)
    for probe in INSIDE:
        assert probe.command(targets)[0] == "python3"
        assert probe.tries.endswith(".")
    assert len({probe.name for probe in INSIDE}) == len(INSIDE)
