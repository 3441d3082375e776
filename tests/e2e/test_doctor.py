"""`gateway doctor` after a crash of everything, and after the gateway runs again."""

import json
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import own
from tests.whole_gateway import Gateway, eventually, running


@pytest.fixture
def doomed(tmp_path: Path) -> Iterator[Gateway]:
    """A gateway with two workers. All of its processes are killed at the end."""
    with running(Gateway(tmp_path, settings={"GATEWAY_WORKERS": "2"})) as gateway:
        yield gateway


def examine(gateway: Gateway) -> dict[str, Any]:
    examined = gateway.run("doctor", "--json")
    report: dict[str, Any] = json.loads(examined.stdout)
    assert examined.returncode == (0 if report["healthy"] else 1)
    return report


def test_after_a_crash_the_doctor_reports_the_differences_and_a_tick_repairs_them(
    doomed: Gateway,
) -> None:
    kept, ended, lost = (doomed.create(own.user(user)) for user in ("kept", "ended", "lost"))

    for name in ("serve", "router"):
        doomed.kill(name)
    subprocess.run(["docker", "kill", ended["container_id"]], check=True, capture_output=True)
    with sqlite3.connect(doomed.directory / "state/sessions.db") as database:  # like a restored backup
        database.execute("DELETE FROM sessions WHERE id = ?", (lost["session_id"],))
    database.close()

    report = examine(doomed)
    assert "No gateway runs" in next(check["says"] for check in report["checks"] if check["name"] == "reaper")
    found = {(one["place"], one["session_id"]): one["then"] for one in report["differences"]}
    assert found == {
        ("Docker", ended["session_id"]): "the session is closed (killed) at the next tick",
        ("Docker", lost["session_id"]): "removed at the next tick",
        ("pipe file", lost["session_id"]): "removed at the next tick",
        ("session files", lost["session_id"]): "removed at the next tick",
    }
    assert report["others"] == [], "the container names its GPU instance, which goes with it"

    doomed.serve()
    eventually(lambda: doomed.leftovers(ended["session_id"]) == doomed.leftovers(lost["session_id"]) == [])
    assert examine(doomed)["healthy"]
    assert doomed.get(f"/sessions/{kept['session_id']}")["status"] == "active"
