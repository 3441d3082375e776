"""Files go through a router whole, by every tool that OpenSSH's users have."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from tests.routes.ground import Client

MEGABYTE = 1 << 20
BULK = 48 * MEGABYTE


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "a file with spaces"
    file.write_bytes(os.urandom(5 * MEGABYTE))
    return file


def tool(client: Client, name: str, *arguments: str, input: str = "") -> str:
    port = ("-P", str(client.router.port))
    command = [name, *client.options(*port), *arguments]
    done = subprocess.run(command, input=input, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def there(client: Client) -> str:
    return f"{client.username}@127.0.0.1"


def test_sftp_brings_a_file_there_and_back(client: Client, file: Path, tmp_path: Path) -> None:
    tool(client, "sftp", there(client), input=f'put "{file}" sent\nget sent "{tmp_path}/back"\n')
    assert digest(tmp_path / "back") == digest(file)


def test_sftp_lists_makes_renames_and_removes(client: Client) -> None:
    commands = "mkdir d1\nrename d1 d2\nls -d d*\nrmdir d2\nls -d *\n"
    listed = tool(client, "sftp", there(client), input=commands)
    assert "d2" in listed
    assert "d2" not in client.output("ls")


def test_sftp_tells_a_missing_file(client: Client) -> None:
    command = ["sftp", *client.options("-P", str(client.router.port), "-b", "-"), there(client)]
    done = subprocess.run(command, input="get missing\n", capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "not found" in done.stderr


@pytest.mark.parametrize("mode", [[], ["-O"]], ids=["sftp", "scp"])
def test_scp_brings_a_file_there_and_back(
    client: Client, file: Path, tmp_path: Path, mode: list[str]
) -> None:
    tool(client, "scp", *mode, str(file), f"{there(client)}:sent-by-scp")
    tool(client, "scp", *mode, f"{there(client)}:sent-by-scp", str(tmp_path / "back"))
    assert digest(tmp_path / "back") == digest(file)


@pytest.mark.parametrize("mode", [[], ["-O"]], ids=["sftp", "scp"])
def test_scp_copies_a_tree(client: Client, tmp_path: Path, mode: list[str]) -> None:
    name = "tree" + "".join(mode)
    (tmp_path / name / "deep").mkdir(parents=True)
    (tmp_path / name / "deep" / "leaf").write_text("leaf")
    tool(client, "scp", "-r", *mode, str(tmp_path / name), f"{there(client)}:")
    assert client.output(f"cat {name}/deep/leaf") == "leaf"


def rsync(client: Client, *arguments: str) -> str:
    shell = " ".join(["ssh", *client.options("-p", str(client.router.port))])
    done = subprocess.run(["rsync", "-e", shell, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_rsync_brings_a_tree_there_and_back(client: Client, file: Path, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    file.rename(tmp_path / "tree" / "file")
    rsync(client, "-a", f"{tmp_path}/tree/", f"{there(client)}:rsynced/")
    rsync(client, "-a", f"{there(client)}:rsynced/", f"{tmp_path}/back/")
    assert digest(tmp_path / "back" / "file") == digest(tmp_path / "tree" / "file")


def test_rsync_sends_only_what_changed(client: Client, file: Path) -> None:
    rsync(client, "-a", str(file), f"{there(client)}:delta")
    with file.open("ab") as changed:
        changed.write(b"a little more")
    told = rsync(client, "-a", "--stats", "--no-whole-file", str(file), f"{there(client)}:delta")
    literal = next(line for line in told.splitlines() if line.startswith("Literal data"))
    assert int(literal.split()[2].replace(",", "")) < MEGABYTE
    assert client.output("sha256sum < delta").split()[0] == digest(file)


def test_bulk_up_arrives_whole(client: Client) -> None:
    data = os.urandom(MEGABYTE) * (BULK // MEGABYTE)
    assert client.output("sha256sum", input=data).split()[0] == hashlib.sha256(data).hexdigest()


def test_bulk_down_arrives_whole(client: Client) -> None:
    seed = os.urandom(MEGABYTE)
    command = f"cat > seed; for n in $(seq {BULK // MEGABYTE}); do cat seed; done; rm seed"
    done = client.run(command, input=seed)
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(seed * (BULK // MEGABYTE)).digest()


def test_bulk_both_ways_at_once_arrives_whole(client: Client) -> None:
    data = os.urandom(MEGABYTE) * 24
    assert hashlib.sha256(client.run("cat", input=data).stdout).digest() == hashlib.sha256(data).digest()
