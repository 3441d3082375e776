"""The signals of real sessions: what is used or unknown is active, and what is forgotten is idle.

The clock of the rules is the test's: `tests/api/test_idle.py` shows what follows from the signals.
"""

import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway import repositories
from gateway.domain import activity
from gateway.domain.activity import GpuUse, Probe, Reading
from gateway.errors import GatewayError
from gateway.repositories.docker import labels
from gateway.repositories.docker.client import Docker
from gateway.repositories.docker.exec import Inside
from tests import own
from tests.whole_gateway import Gateway, eventually

USER = own.user("idle")
_SCRIPT = Path(repositories.__file__).with_name("scripts") / "activity.sh"


class Watched:
    """A session, and its signals as the gateway reads them."""

    def __init__(self, gateway: Gateway) -> None:
        self.session_id = gateway.create(USER)["session_id"]
        label = f"{labels.SESSION}={self.session_id}"
        [self.container] = Docker().client.containers.list(filters={"label": label})

    def probe(self) -> Probe | None:
        try:
            command = ["/bin/sh", "-c", _SCRIPT.read_text(), "activity"]
            _, text = Inside(Docker()).run(str(self.container.id), command)
        except GatewayError:
            return None
        return Probe.parse(text)

    def reading(self, minutes: float = 10, seconds: float = 2) -> Reading:
        """Read twice, so many seconds apart; for the terminals, as if that were so many minutes ago."""
        first = self.probe()
        time.sleep(seconds)
        second, now = self.probe(), datetime.now(UTC)
        cpu = first.cpu_microseconds if first else None
        before = Reading(now - timedelta(seconds=seconds), (), cpu)
        if second and second.terminal_seconds is not None:
            later = round(second.terminal_seconds + minutes * 60)
            second = Probe(second.connections, later, second.cpu_microseconds)
        return activity.read(second, GpuUse(0), None, before, now)


@pytest.fixture
def watched(gateway: Gateway) -> Watched:
    watched = Watched(gateway)
    gateway.in_session(USER, "true")
    eventually(lambda: (probe := watched.probe()) and probe.connections == 0)
    return watched


@pytest.fixture(autouse=True)
def _ended(gateway: Gateway) -> Iterator[None]:
    yield
    for session in gateway.get("/sessions")["sessions"]:
        gateway.delete(session["session_id"])


def states(reading: Reading) -> dict[str, str]:
    return {signal.name: signal.state.value for signal in reading.signals}


def test_a_session_in_which_nothing_happens_is_idle(watched: Watched) -> None:
    assert watched.reading().is_idle


def test_what_an_editor_leaves_behind_is_idle(gateway: Gateway, watched: Watched) -> None:
    command = (
        "tmux new-session -d 'sleep infinity'; nohup sh -c 'while :; do sleep 5; done' > /dev/null 2>&1 &"
    )
    gateway.in_session(USER, command)
    time.sleep(1)
    assert watched.reading().is_idle, states(watched.reading())


def test_a_job_in_tmux_without_a_connection_is_active(gateway: Gateway, watched: Watched) -> None:
    gateway.in_session(USER, "tmux new-session -d 'while :; do :; done'")
    found = states(watched.reading())
    assert (found["connections"], found["cpu"]) == ("idle", "active")


def test_a_job_that_only_prints_is_active(gateway: Gateway, watched: Watched) -> None:
    gateway.in_session(USER, "tmux new-session -d 'while :; do date; sleep 1; done'")
    time.sleep(1)
    assert states(watched.reading(minutes=0))["terminals"] == "active"


def test_an_open_connection_is_active(gateway: Gateway, watched: Watched) -> None:
    with subprocess.Popen(gateway.ssh(USER, "sleep", "99")) as connection:
        eventually(lambda: states(watched.reading(seconds=0.2))["connections"] == "active")
        connection.kill()
    eventually(lambda: states(watched.reading(seconds=0.2))["connections"] == "idle")


def test_a_session_that_does_not_answer_is_not_idle(watched: Watched) -> None:
    watched.container.pause()
    try:
        found = watched.reading(seconds=0.1)
        assert not found.is_idle
        assert states(found)["connections"] == "unknown"
    finally:
        watched.container.unpause()
