"""Programs that copy files over SFTP: lftp and sshfs start ssh, rclone is written in Go."""

import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.routes.ground import Client
from tests.routes.test_other_clients import MEGABYTE, output, require


@pytest.fixture
def sent(tmp_path: Path) -> Path:
    file = tmp_path / "sent"
    file.write_bytes(os.urandom(3 * MEGABYTE))
    return file


def test_lftp_brings_a_file_there_and_back(client: Client, sent: Path) -> None:
    require("lftp")
    program = shlex.join(["ssh", "-a", "-x", *client.options()])
    script = [
        f"set sftp:connect-program {shlex.quote(program)}",
        f"open -u {client.username}, sftp://127.0.0.1:{client.router.port}",
        f"put {sent} -o by-lftp",
        f"get by-lftp -o {sent}.back",
    ]
    output(["lftp", "-c", "; ".join(script)])
    assert Path(f"{sent}.back").read_bytes() == sent.read_bytes()


def test_rclone_brings_a_file_there_and_back(client: Client, sent: Path) -> None:
    """It speaks SSH by golang.org/x/crypto, as many tools do."""
    require("rclone")
    client.options()  # writes known_hosts
    settings = {
        "host": "127.0.0.1",
        "port": client.router.port,
        "user": client.username,
        "key-file": client.keys.private,
        "known-hosts-file": client.directory / "known_hosts",
    }
    flags = [part for name, value in settings.items() for part in (f"--sftp-{name}", str(value))]
    rclone = ["rclone", "--config", os.devnull, *flags, "copyto"]
    output([*rclone, str(sent), ":sftp:by-rclone"])
    output([*rclone, ":sftp:by-rclone", f"{sent}.back"])
    assert Path(f"{sent}.back").read_bytes() == sent.read_bytes()


@pytest.fixture
def mounted(client: Client, tmp_path: Path) -> Iterator[Path]:
    require("sshfs", "fusermount3")
    if not Path("/dev/fuse").exists():
        pytest.skip("no /dev/fuse here")
    directory = tmp_path / "mounted"
    directory.mkdir()
    place = f"{client.username}@127.0.0.1:"
    output(["sshfs", *client.options()[2:], "-p", str(client.router.port), place, str(directory)])
    yield directory
    subprocess.run(["fusermount3", "-u", str(directory)], check=True, timeout=30)


def test_sshfs_shows_the_files_of_a_session_as_a_directory(mounted: Path, sent: Path) -> None:
    (mounted / "by-sshfs").write_bytes(sent.read_bytes())
    (mounted / "한글").mkdir(exist_ok=True)  # both routers lead to one sshd
    assert (mounted / "by-sshfs").read_bytes() == sent.read_bytes()
    assert "한글" in os.listdir(mounted)
