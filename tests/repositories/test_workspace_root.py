"""The root of the workspaces: its marker, its mode, and how it is mounted."""

import os
import pwd
from pathlib import Path

import pytest

from gateway.errors import WorkspaceRefused
from gateway.repositories.files.workspace_root import MARKER
from gateway.repositories.files.workspaces import HostWorkspaces

UID = 20003


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "workspaces"


@pytest.fixture
def workspaces(root: Path, tmp_path: Path) -> HostWorkspaces:
    return HostWorkspaces(root, record=tmp_path / "record")


def test_the_first_workspace_marks_the_root_and_later_ones_find_the_mark(
    root: Path, workspaces: HostWorkspaces
) -> None:
    workspaces.ensure("ann", UID)
    assert (root / MARKER).read_text().startswith("The GPU SSH Gateway keeps its users' workspaces")
    workspaces.ensure("bob", UID + 1)
    assert sorted(workspaces.owners()) == ["ann", "bob"]


@pytest.mark.parametrize("below", ["empty", "missing", "files of others"])
def test_a_disk_that_is_not_mounted_is_refused_and_nothing_is_made(
    root: Path, workspaces: HostWorkspaces, below: str
) -> None:
    home = workspaces.ensure("ann", UID)
    (home / "kept").touch()
    root.rename(root.with_name("disk"))
    if below != "missing":
        root.mkdir()
    if below == "files of others":
        (root / "ann").mkdir()
    before = os.listdir(root) if root.exists() else None
    for act in (lambda: workspaces.ensure("ann", UID), workspaces.check):
        with pytest.raises(WorkspaceRefused, match="not mounted"):
            act()
    assert (os.listdir(root) if root.exists() else None) == before
    if root.exists():
        os.rename(root, root.with_name("below"))
    root.with_name("disk").rename(root)
    assert (workspaces.ensure("ann", UID) / "kept").exists()


def test_a_new_disk_is_accepted_with_the_marker(root: Path, workspaces: HostWorkspaces) -> None:
    workspaces.ensure("ann", UID)
    root.rename(root.with_name("old"))
    root.mkdir()
    (root / MARKER).touch()
    assert workspaces.ensure("ann", UID).is_dir()


def test_a_new_state_directory_accepts_workspaces_that_are_marked(
    root: Path, workspaces: HostWorkspaces, tmp_path: Path
) -> None:
    workspaces.ensure("ann", UID)
    other = HostWorkspaces(root, record=tmp_path / "other")
    other.ensure("ann", UID)
    (root / MARKER).unlink()
    with pytest.raises(WorkspaceRefused):
        other.ensure("ann", UID)


@pytest.mark.parametrize("mode", [0o755, 0o711, 0o777])
def test_the_root_is_closed_to_other_accounts(root: Path, workspaces: HostWorkspaces, mode: int) -> None:
    root.mkdir()
    root.chmod(mode)
    (root / "lost+found").mkdir()
    workspaces.ensure("ann", UID)
    assert root.stat().st_mode & 0o777 == 0o700
    root.chmod(mode)
    assert any("chmod 700" in weakness for weakness in workspaces.check())
    workspaces.ensure("ann", UID)
    assert root.stat().st_mode & 0o777 == 0o700


def test_a_root_where_accounts_of_the_host_live_is_left_open(root: Path, workspaces: HostWorkspaces) -> None:
    """Such as /home: to close it would lock them out."""
    root.mkdir(0o755)
    root.chmod(0o755)
    (root / "nobody").mkdir()
    os.chown(root / "nobody", pwd.getpwnam("nobody").pw_uid, 0)
    workspaces.ensure("ann", UID)
    assert root.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(
    ("flags", "weaknesses"),
    [
        (0, ["mounted without nosuid,nodev"]),
        (os.ST_NODEV, ["mounted without nosuid"]),
        (os.ST_NODEV | os.ST_NOSUID, []),
    ],
)
def test_a_mount_that_honours_setuid_bits_and_devices_is_named(
    root: Path, workspaces: HostWorkspaces, monkeypatch: pytest.MonkeyPatch, flags: int, weaknesses: list[str]
) -> None:
    workspaces.ensure("ann", UID)
    real = os.statvfs(root)
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((*real[:8], flags, *real[9:])))
    assert workspaces.check() == weaknesses
