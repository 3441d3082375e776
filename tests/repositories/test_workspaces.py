import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.errors import DiskFull, WorkspaceRefused
from gateway.repositories.files.time_limit import TimeLimitedWorkspaces
from gateway.repositories.files.workspaces import HostWorkspaces
from tests.failing_disks import CAN_MOUNT, silent

UID = 20003


def test_a_workspace_is_made_as_promised(tmp_path: Path) -> None:
    path = HostWorkspaces(tmp_path / "root").ensure("user123", UID)
    assert path == tmp_path / "root/user123"
    assert sorted(os.listdir(path)) == [".bashrc", ".profile", "data", "projects"]
    assert path.stat().st_mode & 0o777 == 0o700
    for entry in (path, *path.iterdir()):
        assert (entry.stat().st_uid, entry.stat().st_gid) == (UID, UID)


def test_the_next_session_finds_it_unchanged(tmp_path: Path) -> None:
    workspaces = HostWorkspaces(tmp_path)
    path = workspaces.ensure("user123", UID)
    (path / "projects/model.py").write_text("x = 1")
    (path / ".bashrc").write_text("mine")
    (path / "data").rmdir()
    workspaces.ensure("user123", UID)
    assert (path / "projects/model.py").read_text() == "x = 1"
    assert (path / ".bashrc").read_text() == "mine"
    assert not (path / "data").exists()


def test_what_a_killed_maker_left_goes_when_the_workspace_is_made(tmp_path: Path) -> None:
    (tmp_path / ".user123.k1ll3d/projects").mkdir(parents=True)
    others = [".user1234.0ther", ".user123.doe.0ther"]
    for other in others:
        (tmp_path / other).mkdir()
    HostWorkspaces(tmp_path).ensure("user123", UID)
    assert sorted(os.listdir(tmp_path)) == sorted([*others, "user123"])


def test_a_workspace_that_was_opened_to_others_is_closed_again(tmp_path: Path) -> None:
    workspaces = HostWorkspaces(tmp_path)
    workspaces.ensure("user123", UID).chmod(0o777)
    assert workspaces.ensure("user123", UID).stat().st_mode & 0o777 == 0o700


def test_a_symlink_in_its_place_is_refused_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "user123").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(WorkspaceRefused):
        HostWorkspaces(tmp_path).ensure("user123", UID)
    assert os.listdir(tmp_path / "elsewhere") == []


def test_a_dangling_symlink_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "user123").symlink_to(tmp_path / "nowhere")
    with pytest.raises(WorkspaceRefused):
        HostWorkspaces(tmp_path).ensure("user123", UID)


def test_a_foreign_owner_or_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    workspaces = HostWorkspaces(tmp_path)
    workspaces.ensure("user123", UID)
    with pytest.raises(WorkspaceRefused, match=str(UID + 1)):
        workspaces.ensure("user123", UID + 1)
    (tmp_path / "other").write_text("a file")
    with pytest.raises(WorkspaceRefused):
        workspaces.ensure("other", UID)


def test_a_full_disk_is_told_and_leaves_nothing_half_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "chown", full)
    with pytest.raises(DiskFull):
        HostWorkspaces(tmp_path).ensure("user123", UID)
    assert os.listdir(tmp_path) == []


@pytest.mark.may_be_skipped
@pytest.mark.skipif(not CAN_MOUNT, reason="needs root and FUSE")
def test_a_disk_that_does_not_answer_is_told_in_time_however_many_ask(tmp_path: Path) -> None:
    root = tmp_path / "workspaces"
    workspaces = TimeLimitedWorkspaces(HostWorkspaces(root), seconds=0.3)
    workspaces.ensure("ann", UID)
    calls: list[Callable[[], object]] = [
        lambda: workspaces.ensure("ann", UID),
        workspaces.owners,
        workspaces.check,
        workspaces.has_quotas,
    ]
    with silent(root), ThreadPoolExecutor(24) as pool:
        for outcome in [pool.submit(call) for call in calls * 6]:
            with pytest.raises(WorkspaceRefused, match="did not answer"):
                outcome.result(timeout=10)
        waiting = [thread for thread in threading.enumerate() if thread.name == "workspaces"]
        assert len(waiting) == 16
    for thread in waiting:
        thread.join(timeout=10)
    assert workspaces.owners() == {"ann": UID}
