"""The disk that holds a path, in a directory like /sys/dev/block."""

import os
from pathlib import Path

import pytest

from gateway.repositories.disk import disk_of


@pytest.fixture
def number(tmp_path: Path) -> str:
    device = tmp_path.stat().st_dev
    return f"{os.major(device)}:{os.minor(device)}"


@pytest.mark.parametrize(
    ("device", "disk"),
    [("vda", "/dev/vda"), ("nvme0n1/nvme0n1p2", "/dev/nvme0n1"), ("cciss!c0d0", "/dev/cciss/c0d0")],
)
def test_a_path_is_on_a_whole_disk(tmp_path: Path, number: str, device: str, disk: str) -> None:
    entry = tmp_path / "block" / device
    entry.mkdir(parents=True)
    if "/" in device:
        (entry / "partition").write_text("2")
    (tmp_path / number).symlink_to(entry)
    assert disk_of(tmp_path, tmp_path) == disk


def test_a_file_system_without_a_disk_has_none() -> None:
    assert disk_of(Path("/proc")) is None
