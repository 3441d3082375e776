"""Clients of other makes than OpenSSH's log in, run commands and bring files there and back."""

import asyncio
import base64
import hashlib
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import asyncssh
import paramiko
import pytest

from tests.routes.ground import IMAGE, Client, run

MEGABYTE = 1 << 20


def require(*programs: str) -> None:
    missing = [program for program in programs if not shutil.which(program)]
    if missing:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"not installed: {', '.join(missing)}")


def output(command: Sequence[str], input: bytes = b"") -> bytes:
    done = subprocess.run(command, input=input, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


# OpenSSH of the workspace image, which is newer than that of a Debian 12 host


TYPING = "sleep 1; for key in e c h o; do printf $key; sleep 0.1; done; sleep 1"


def openssh(client: Client, *arguments: str, stdin: str = "true") -> "subprocess.CompletedProcess[bytes]":
    """Its standard input is the output of the shell command `stdin`."""
    client.options()  # writes known_hosts
    keys = client.directory / "for-the-container"
    keys.mkdir(exist_ok=True)
    shutil.copy(client.keys.private, keys / "key")
    shutil.copy(client.directory / "known_hosts", keys / "known_hosts")
    mounted = ["-o", "IdentityFile=/keys/key", "-o", "UserKnownHostsFile=/keys/known_hosts"]
    where = ["-p", str(client.router.port), "-l", client.username, "127.0.0.1"]
    inside = ["ssh", "-F", "none", "-o", "BatchMode=yes", *mounted, *arguments[:-1], *where, arguments[-1]]
    container = ["docker", "run", "--rm", "--network=host", "--user=0", f"--volume={keys}:/keys:ro", IMAGE]
    script = f"({stdin}) | {shlex.join(inside)}"
    return subprocess.run([*container, "sh", "-c", script], capture_output=True, timeout=60)


def test_openssh_10_uses_an_exchange_that_holds_against_quantum_computers(client: Client) -> None:
    done = openssh(client, "-v", "echo there")
    assert done.stdout == b"there\n", done.stderr
    if client.router.kind == "embedded":
        assert b"kex: algorithm: mlkem768x25519-sha256" in done.stderr
        assert b"not using a post-quantum" not in done.stderr


def test_openssh_10_hides_the_timing_of_keystrokes(client: Client) -> None:
    if client.router.kind == "sshpiper":
        pytest.skip("SSHPiper does so only with --reply-ping")
    done = openssh(client, "-vvv", "-tt", "timeout 5 cat", stdin=TYPING)
    assert b"ping@openssh.com=<0>" in done.stderr
    chaff = re.findall(rb"chaff time expired \((\d+) chaff packets sent\)", done.stderr)
    assert sum(map(int, chaff)) > 10, "between four keystrokes in 0.4 s, one every 20 ms"


# Dropbear


@pytest.fixture
def dbclient(client: Client) -> list[str]:
    require("dbclient", "dropbearconvert")
    key = client.directory / "dropbear_key"
    run("dropbearconvert", "openssh", "dropbear", str(client.keys.private), str(key))
    where = ["-p", str(client.router.port), f"{client.username}@127.0.0.1"]
    return ["dbclient", "-y", "-y", "-T", "-i", str(key), *where]


def test_dropbear_runs_a_command(dbclient: list[str]) -> None:
    """It guesses the key exchange, and its guess is not the router's first choice."""
    assert output([*dbclient, "echo there"]) == b"there\n"


def test_dropbear_s_transfers_arrive_whole(dbclient: list[str]) -> None:
    data = os.urandom(3 * MEGABYTE)
    assert output([*dbclient, "sha256sum"], data).split()[0].decode() == hashlib.sha256(data).hexdigest()
    assert output([*dbclient, "cat"], data) == data


# PuTTY


@pytest.fixture
def putty(client: Client) -> list[str]:
    require("plink", "psftp", "puttygen")
    key = client.directory / "key.ppk"
    run("puttygen", str(client.keys.private), "-O", "private", "-o", str(key))
    kind, blob = client.router.public_key.split()[:2]
    assert kind == "ssh-ed25519"
    digest = base64.b64encode(hashlib.sha256(base64.b64decode(blob)).digest()).decode().rstrip("=")
    where = ["-P", str(client.router.port), "-i", str(key), "-l", client.username]
    return ["-batch", *where, "-hostkey", f"SHA256:{digest}"]


def test_plink_runs_a_command(putty: list[str]) -> None:
    assert output(["plink", *putty, "127.0.0.1", "echo there"]) == b"there\n"


def test_plink_s_transfers_arrive_whole(putty: list[str]) -> None:
    data = os.urandom(3 * MEGABYTE)
    assert output(["plink", *putty, "127.0.0.1", "cat"], data) == data


def test_plink_shrugs_at_what_only_openssh_understands(putty: list[str]) -> None:
    """The session's sshd sends it eow@openssh.com, because the router names itself OpenSSH."""
    assert (
        output(["plink", *putty, "127.0.0.1", "exec 0<&-; sleep 0.2; echo there"], b"unread\n") == b"there\n"
    )


def test_psftp_brings_a_file_there_and_back(putty: list[str], tmp_path: Path) -> None:
    data = os.urandom(MEGABYTE)
    (tmp_path / "sent").write_bytes(data)
    script = f"put {tmp_path}/sent by-psftp\nget by-psftp {tmp_path}/back\nquit\n"
    output(["psftp", *putty, "-b", "/dev/stdin", "127.0.0.1"], script.encode())
    assert (tmp_path / "back").read_bytes() == data


# libssh2, which Debian's curl is linked with


@pytest.mark.parametrize("protocol", ["sftp", "scp"])
def test_curl_brings_a_file_there_and_back(client: Client, tmp_path: Path, protocol: str) -> None:
    if "libssh2" not in output(["curl", "--version"]).decode():
        pytest.skip("this curl has no libssh2")
    data = os.urandom(MEGABYTE)
    (tmp_path / "sent").write_bytes(data)
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/known_hosts").write_text(client.router.known_hosts)
    public = tmp_path / "key.pub"
    public.write_text(client.keys.public)
    url = f"{protocol}://{client.username}@127.0.0.1:{client.router.port}/tmp/by-curl-{protocol}"
    curl = [
        "env",
        f"HOME={tmp_path}",
        "curl",
        "--silent",
        "--show-error",
        "--key",
        str(client.keys.private),
        "--pubkey",
        str(public),
    ]
    output([*curl, "--upload-file", str(tmp_path / "sent"), url])
    assert output([*curl, url]) == data


# Python


def test_paramiko_runs_commands_and_brings_files(client: Client, tmp_path: Path) -> None:
    data = os.urandom(MEGABYTE)
    (tmp_path / "sent").write_bytes(data)
    with paramiko.SSHClient() as ssh:
        client.log_in(ssh)
        assert ssh.exec_command("echo there")[1].read() == b"there\n"
        with ssh.open_sftp() as sftp:
            sftp.put(str(tmp_path / "sent"), "by-paramiko")
            sftp.get("by-paramiko", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == data


def test_asyncssh_runs_commands_and_brings_files(client: Client, tmp_path: Path) -> None:
    data = os.urandom(MEGABYTE)
    (tmp_path / "sent").write_bytes(data)
    known = asyncssh.import_known_hosts(client.router.known_hosts)

    async def work() -> None:
        async with asyncssh.connect(
            "127.0.0.1",
            client.router.port,
            username=client.username,
            config=None,
            known_hosts=known,
            client_keys=[str(client.keys.private)],
        ) as ssh:
            assert (await ssh.run("echo there", check=True)).stdout == "there\n"
            async with ssh.start_sftp_client() as sftp:
                await sftp.put(str(tmp_path / "sent"), "by-asyncssh")
                await sftp.get("by-asyncssh", str(tmp_path / "back"))

    asyncio.run(work())
    assert (tmp_path / "back").read_bytes() == data
