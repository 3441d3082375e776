"""The kernel's own quotas, on a file system made for each test."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.repositories.files import quotas
from gateway.repositories.files.workspaces import HostWorkspaces

UID = 20003
MIB = 2**20
FILE_SYSTEMS = {"ext4": ["-q", "-O", "quota"], "xfs": ["-q"]}


@pytest.fixture(params=FILE_SYSTEMS)
def mounted(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    image, place = tmp_path / "image", tmp_path / "mounted"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(512 * MIB)
    try:
        subprocess.run([f"mkfs.{request.param}", *FILE_SYSTEMS[request.param], image], check=True)
    except FileNotFoundError:
        pytest.skip(f"no mkfs.{request.param} here")
    options = ["-t", request.param, "-o", "loop,usrquota"]
    if subprocess.run(["mount", *options, image, place], capture_output=True).returncode:
        pytest.skip(f"this kernel keeps no quotas on {request.param}")
    yield place
    subprocess.run(["umount", place], check=True)


def as_user(home: Path, script: str) -> str:
    """Return the standard error of the script. The user can write only to the working directory."""
    done = subprocess.run(
        ["sh", "-c", script],
        cwd=home,
        stderr=subprocess.PIPE,
        text=True,
        user=UID,
        group=UID,
        extra_groups=[],
    )
    return done.stderr


def write_as_user(path: Path, mib: int) -> int:
    """Return how many MiB the user could write."""
    as_user(path.parent, f"head -c {mib}M /dev/zero > {path.name}")
    return path.stat().st_size // MIB


@pytest.mark.may_be_skipped
def test_a_user_cannot_exceed_the_quota_until_files_are_removed(mounted: Path) -> None:
    workspaces = HostWorkspaces(mounted / "root", 20 * MIB)
    assert workspaces.has_quotas()
    home = workspaces.ensure("user123", UID)
    assert write_as_user(home / "first", 10) == 10
    assert write_as_user(home / "second", 30) < 12
    (home / "first").unlink()
    assert write_as_user(home / "third", 5) == 5


@pytest.mark.may_be_skipped
def test_a_user_cannot_exceed_the_number_of_files(mounted: Path) -> None:
    home = HostWorkspaces(mounted, 16 * MIB).ensure("user123", UID)
    assert "quota exceeded" in as_user(home, "seq 2000 | xargs touch")
    assert len(os.listdir(home)) <= 1024


@pytest.mark.may_be_skipped
def test_a_larger_quota_applies_from_the_next_session_on(mounted: Path) -> None:
    HostWorkspaces(mounted, 8 * MIB).ensure("user123", UID)
    home = HostWorkspaces(mounted, 40 * MIB).ensure("user123", UID)
    assert write_as_user(home / "big", 30) == 30


def test_a_file_system_without_quotas_is_recognised(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path], check=True)
    try:
        assert not quotas.are_enforced(tmp_path / "not/yet/there")
        home = HostWorkspaces(tmp_path, MIB).ensure("user123", UID)
        assert write_as_user(home / "big", 2) == 2
    finally:
        subprocess.run(["umount", tmp_path], check=True)
