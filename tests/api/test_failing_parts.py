"""A part fails, such as a disk that is lost or read-only. The API says so, and the other parts go on."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.conftest import NOTHING, Bench
from tests.failing_disks import CAN_MOUNT, lost, read_only

needs_mounts = pytest.mark.skipif(not CAN_MOUNT, reason="needs root and FUSE")
Fails = Callable[[Path], AbstractContextManager[None]]


@pytest.fixture
def bench(bench: Bench) -> Bench:
    """With two sessions, of which ann's is over."""
    assert bench.client.post("/sessions", json={"user_id": "ann", "ttl_minutes": 1}).status_code == 201
    bench.clock.advance(minutes=2)
    assert bench.client.post("/sessions", json={"user_id": "ben"}).status_code == 201
    return bench


def id_of(bench: Bench, user_id: str) -> str:
    [found] = [each for each in bench.client.get("/sessions").json["sessions"] if each["user_id"] == user_id]
    return str(found["session_id"])


@pytest.mark.may_be_skipped
@needs_mounts
@pytest.mark.parametrize(("fails", "why"), [(lost, "cannot be read"), (read_only, "mounted read-only")])
@pytest.mark.parametrize("user_id", ["carl", "ann"])  # one without a workspace, and one with
def test_without_the_disk_of_the_workspaces_no_session_opens_and_all_others_end(
    bench: Bench, fails: Fails, why: str, user_id: str
) -> None:
    bench.client.delete(f"/sessions/{id_of(bench, 'ann')}")
    with fails(bench.settings.workspace_root):
        refused = bench.client.post("/sessions", json={"user_id": user_id})
        assert (refused.status_code, refused.json["type"]) == (503, "/problems/workspace-refused")
        ready = bench.client.get("/readyz")
        assert (ready.status_code, why in ready.json["parts"]["workspace-root"]) == (503, True)
        assert bench.client.delete(f"/sessions/{id_of(bench, 'ben')}").status_code == 204
    assert bench.leftovers() == NOTHING
    assert bench.client.get("/readyz").status_code == 503  # the reaper has not ticked
    assert bench.client.post("/sessions", json={"user_id": user_id}).status_code == 201


@pytest.mark.may_be_skipped
@needs_mounts
@pytest.mark.parametrize(("fails", "why"), [(lost, "cannot be read"), (read_only, "mounted read-only")])
def test_without_the_disk_of_the_session_files_slices_are_given_back_and_the_files_go_later(
    bench: Bench, fails: Fails, why: str
) -> None:
    files = bench.settings.state_dir / "sessions"
    with fails(files):
        refused = bench.client.post("/sessions", json={"user_id": "carl"})
        assert refused.status_code == 503
        ready = bench.client.get("/readyz")
        assert (ready.status_code, why in ready.json["parts"]["session-files"]) == (503, True)
        assert bench.client.delete(f"/sessions/{id_of(bench, 'ben')}").status_code in (202, 204)
        for session in bench.reconciler.expired():
            bench.reconciler.reap(session)
        bench.reconciler.reconcile()
        assert bench.instances() == []
        assert bench.containers.list() == []
    bench.reconciler.reconcile()
    assert bench.leftovers() == NOTHING


def test_a_defect_in_one_part_keeps_no_other_part_from_repair(bench: Bench) -> None:
    """Such as an error that its repository does not expect."""
    bench.containers.end(id_of(bench, "ben"))
    bench.egress.failure = RuntimeError("a defect")
    bench.reconciler.reconcile()
    assert [each["user_id"] for each in bench.client.get("/sessions").json["sessions"]] == ["ann"]
    ready = bench.client.get("/readyz")
    assert ready.status_code == 503
    assert (
        ready.json["parts"]["egress"] == "Internal error (RuntimeError): the gateway's log has the details."
    )
    assert ready.json["parts"]["gpus"].startswith("ok")
