"""Each disk that the gateway writes to, really full, or lost: a clear answer, and nothing stays behind."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests import own
from tests.failing_disks import CAN_MOUNT, lost
from tests.whole_gateway import Gateway, eventually, take_away

ANN, BEN = own.user("ann"), own.user("ben")
PLACES = ("workspaces", "sshpiper", "state")


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    """Its three directories are small disks of their own: not among pytest's, which it could not remove if
    a run is killed before they are unmounted."""
    gateway = Gateway(Path(tempfile.mkdtemp(prefix="gateway-small-disks-")))
    for place in PLACES:
        (gateway.directory / place).mkdir()
        options = "size=4m,mode=755"
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "small", gateway.directory / place], check=True
        )
    try:
        assert gateway.run("migrate").returncode == 0
        gateway.serve()
        yield gateway
    finally:
        take_away(gateway)
        for place in PLACES:
            subprocess.run(["umount", "--lazy", gateway.directory / place], check=True)
        shutil.rmtree(gateway.directory)


def fill(directory: Path) -> Path:
    """A file that takes all that is left."""
    filler = directory / "filler"
    with open(filler, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return filler


@pytest.mark.parametrize("place", PLACES)
def test_a_full_disk_is_told_and_nothing_is_lost(gateway: Gateway, place: str) -> None:
    filler = fill(gateway.directory / place)
    answer = requests.post(f"{gateway.url}/sessions", json={"user_id": own.user(f"in-{place}")}, timeout=60)
    assert answer.status_code == 507, answer.text
    assert answer.json()["type"] == "/problems/disk-full"
    filler.unlink()
    eventually(lambda: gateway.get("/sessions")["sessions"] == [], seconds=75)
    assert [gpu["instances"] for gpu in gateway.get("/gpus")["gpus"]] == [[], []]
    session = requests.post(f"{gateway.url}/sessions", json={"user_id": own.user(f"in-{place}")}, timeout=60)
    assert session.status_code == 201, session.text
    assert gateway.delete(session.json()["session_id"]).status_code == 204


@pytest.mark.may_be_skipped
@pytest.mark.skipif(not CAN_MOUNT, reason="needs FUSE")
@pytest.mark.parametrize("place", PLACES)
def test_a_lost_disk_is_told_by_everybody_and_nothing_stays_when_it_is_back(
    gateway: Gateway, place: str
) -> None:
    wanted = {"user_id": own.user(f"on-{place}")}
    session = requests.post(f"{gateway.url}/sessions", json=wanted, timeout=60).json()
    with lost(gateway.directory / place):
        ready = requests.get(f"{gateway.url}/readyz", timeout=60)
        assert ready.status_code == 503
        assert "Internal error" not in ready.text
        answer = requests.post(f"{gateway.url}/sessions", json={"user_id": own.user("lost")}, timeout=60)
        assert answer.status_code == 503, answer.text
        assert gateway.delete(session["session_id"]).status_code in (202, 204, 503)
        diagnosis = gateway.run("doctor")
        assert diagnosis.returncode == 1
        assert diagnosis.stdout.startswith("CHECK"), diagnosis
    gateway.delete(session["session_id"])
    eventually(lambda: gateway.get("/sessions")["sessions"] == [], seconds=75)
    assert gateway.leftovers(session["session_id"]) == []
    assert "internal error" not in gateway.log("serve")


def test_the_gateway_measures_by_itself_who_is_above_the_quota(gateway: Gateway) -> None:
    """At once when it begins to lead, and every few minutes from then on."""

    def post(user_id: str) -> requests.Response:
        return requests.post(f"{gateway.url}/sessions", json={"user_id": user_id}, timeout=60)

    def refused() -> bool:
        answer = post(ANN)
        if answer.ok:
            gateway.delete(answer.json()["session_id"])
        return answer.status_code == 507 and answer.json()["type"] == "/problems/workspace-full"

    gateway.delete(post(ANN).json()["session_id"])
    (gateway.directory / f"workspaces/{ANN}/data/big").write_bytes(bytes(2 * 2**20))
    assert not refused()
    gateway.settings["GATEWAY_WORKSPACE_QUOTA"] = "1m"
    gateway.kill("serve")
    gateway.serve()
    eventually(refused)
    assert post(BEN).status_code == 201
    assert "disk-full" in gateway.run("events").stdout
