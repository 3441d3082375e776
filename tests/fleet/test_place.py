"""A place of a cluster's own: it is reached from the machine, and nothing of it outlives its starter."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests import own
from tests.fleet.place import Place, a_place
from tests.paths import REPOSITORY
from tests.whole_gateway import eventually

SECONDS = 60
_STARTER = """
import time
from tests.fleet.place import a_place
with a_place() as place:
    place.start("sleeper", ["sleep", "7654"])
    print(place.directory, flush=True)
    time.sleep(600)
"""


def processes(text: str) -> list[Path]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in command:
            found.append(process)
    return found


def serve(place: Place) -> None:
    place.start("server", [sys.executable, "-m", "http.server", "--bind", place.address, "6443"])


def connects(place: Place) -> bool:
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex((place.address, 6443)) == 0


def test_a_server_in_a_place_is_reached_from_the_machine_and_can_be_stopped() -> None:
    with a_place() as place:
        serve(place)
        eventually(lambda: connects(place), SECONDS)
        place.stop("server")
        assert not place.is_running("server")
        assert not connects(place)


def test_a_place_refuses_the_machine_until_it_accepts_it_again() -> None:
    with a_place() as place:
        serve(place)
        eventually(lambda: connects(place), SECONDS)
        with socket.create_connection((place.address, 6443), timeout=5) as client:
            place.refuse()
            assert not connects(place)
            client.send(b"GET / HTTP/1.0\r\n\r\n")
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        place.accept()
        assert connects(place)
        place.accept()


def test_a_place_has_its_own_processes_and_mounts() -> None:
    with a_place() as place:
        place.run(["mount", "-t", "tmpfs", "none", place.directory])
        assert "sh -c" in place.run(["ps", "-o", "args=", "1"])
        assert str(place.directory) not in Path("/proc/self/mounts").read_text()
    assert not place.directory.exists()


def test_what_is_written_in_a_place_stays_there() -> None:
    name = own.name("written")
    with a_place() as place:
        for directory in ("/run", "/tmp", "/var/lib", "/var/log"):
            place.run(["touch", f"{directory}/{name}"])
            place.run(["ls", f"{directory}/{name}"])
            assert not Path(directory, name).exists()


def test_two_places_stand_beside_each_other() -> None:
    with a_place() as first, a_place() as second:
        for place in (first, second):
            serve(place)
        for place in (first, second):
            eventually(lambda place=place: connects(place), SECONDS)  # type: ignore[misc]
        first.stop("server")
        assert not connects(first)
        assert connects(second)


def test_joined_places_reach_each_other_and_a_lost_one_takes_its_cable_along() -> None:
    with a_place() as first, a_place() as second:
        second.join(first)
        serve(second)
        eventually(lambda: connects(second), SECONDS)
        first.run(["curl", "--silent", "--max-time", "5", f"http://{second.address}:6443"])
        for place, other in ((first, second), (second, first)):
            assert f"{place.pods} via {place.address}" in other.run(["ip", "route"])
        second.lose()
        eventually(lambda: second.pods not in first.run(["ip", "route"]), SECONDS)


def test_all_that_runs_in_a_place_ends_when_its_starter_is_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _STARTER], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    ) as starter:
        assert starter.stdout
        directory = Path(starter.stdout.readline().strip())
        eventually(lambda: processes("sleep 7654"), SECONDS)
        os.kill(starter.pid, signal.SIGKILL)
    eventually(lambda: not processes("sleep 7654"), SECONDS)
    subprocess.run(["rm", "-r", directory], check=True)
