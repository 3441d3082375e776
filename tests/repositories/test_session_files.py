import multiprocessing
import os
import signal
import stat
import subprocess
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from gateway.domain.mig import Gpu
from gateway.errors import Unavailable
from gateway.repositories.files.session_files import HostSessionFiles
from gateway.repositories.host_parts import ContainerSpec


def hold(root: Path, told: Connection) -> None:
    with HostSessionFiles(root).claim("s1"):
        (root / "s1" / "passwd").touch()
        told.send("claimed")
        signal.pause()


def test_a_claim_is_seen_by_all_and_ends_with_its_process(tmp_path: Path) -> None:
    files = HostSessionFiles(tmp_path)
    mine, theirs = multiprocessing.Pipe()
    holder = multiprocessing.get_context("spawn").Process(target=hold, args=(tmp_path, theirs))
    holder.start()
    assert mine.recv() == "claimed"
    assert files.is_claimed("s1") is True
    assert files.list() == {"s1": True}
    assert holder.pid
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    assert files.is_claimed("s1") is False
    assert files.list() == {"s1": False}


def test_a_claim_that_was_never_made_here_cannot_be_judged(tmp_path: Path) -> None:
    assert HostSessionFiles(tmp_path).is_claimed("elsewhere") is None


def test_a_claim_is_on_the_directory_that_is_there_now(tmp_path: Path) -> None:
    files = HostSessionFiles(tmp_path)
    with files.claim("s1"):
        files.remove("s1")
        with files.claim("s1"):
            assert files.is_claimed("s1") is True


def test_a_session_can_read_its_files_whatever_the_umask(
    tmp_path: Path, spec: ContainerSpec, gpu: Gpu
) -> None:
    before = os.umask(0o077)
    try:
        directory = HostSessionFiles(tmp_path).write(spec.request, gpu, spec.allocation)
    finally:
        os.umask(before)
    assert stat.S_IMODE((directory / "etc").stat().st_mode) == 0o755
    assert stat.S_IMODE((directory / "passwd").stat().st_mode) == 0o444


def test_a_state_directory_whose_mount_forbids_programs_is_refused(tmp_path: Path) -> None:
    """The login shell of sessions lies there."""
    HostSessionFiles(tmp_path / "sessions").check()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "noexec", "none", tmp_path], check=True)
    try:
        for root in (tmp_path, tmp_path / "sessions"):
            with pytest.raises(Unavailable, match=f"{tmp_path} is mounted with noexec.*--state-dir"):
                HostSessionFiles(root).check()
    finally:
        subprocess.run(["umount", tmp_path], check=True)
