"""The router's host key as in a volume of Kubernetes: of root, read as the group, in a read-only place."""

import errno
import os
from pathlib import Path

import pytest

from gateway.errors import StartRefused
from gateway.router import host_key

ANOTHER = 1  # a uid


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "ssh_host_ed25519_key"
    host_key.load_all([path])
    path.with_name(f"{path.name}.pub").unlink()
    return path


def test_a_key_of_another_user_may_be_read_by_its_group(key: Path) -> None:
    os.chown(key, ANOTHER, -1)
    key.chmod(0o440)
    assert "ssh-ed25519" in host_key.load_all([key])


@pytest.mark.parametrize(("owner", "mode"), [(ANOTHER, 0o444), (ANOTHER, 0o460), (-1, 0o440)])
def test_a_key_that_others_can_read_or_change_is_refused(key: Path, owner: int, mode: int) -> None:
    os.chown(key, owner, -1)
    key.chmod(mode)
    with pytest.raises(StartRefused, match="only its owner can read"):
        host_key.load_all([key])


def test_a_key_in_a_read_only_place_needs_no_public_half(key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "open", refuse)
    assert "ssh-ed25519" in host_key.load_all([key])
