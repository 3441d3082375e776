"""Private keys and tokens are their owners', whatever the umask, and appear nowhere else."""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from gateway.repositories.files.pipes import Pipes
from tests import own
from tests.whole_gateway import Gateway, eventually, take_away

USER = own.user("user123")


@dataclass
class Ground:
    gateway: Gateway
    token: str
    session: dict[str, Any]
    secrets: dict[str, bytes]  # by what they are

    def holding(self, text: bytes) -> list[str]:
        return [name for name, secret in self.secrets.items() if secret in text]


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """A gateway with an open session, started where new files are open to all."""
    gateway = Gateway(tmp_path_factory.mktemp("secrets"), warm=None)  # a child has the umask of its parent
    before = os.umask(0)
    try:
        assert gateway.run("migrate").returncode == 0
        assert gateway.run("backup", str(gateway.directory / "state/copy.db")).returncode == 0
        token = gateway.run("token", "create", "test", "--role", "admin").stdout.strip()
        gateway.start("router")
        gateway.start("serve")
    finally:
        os.umask(before)
    gateway.until_ready()
    allowed = {"Authorization": f"Bearer {token}"}
    made = requests.post(f"{gateway.url}/sessions", json={"user_id": USER}, headers=allowed, timeout=60)
    session = made.json()
    eventually(lambda: (gateway.directory / "sshpiper/ssh_host_ed25519_key").exists())
    pipe = Pipes(gateway.directory / "sshpiper/pipe.yaml").list()[0]
    host_key = gateway.directory / "state/sessions" / session["session_id"] / "etc/ssh_host_ed25519_key"
    pems = {
        "the user's key": session["ssh_private_key"],
        "the router's key for the session": pipe.private_key,
        "the session's host key": host_key.read_text(),
        "the router's host key": (gateway.directory / "sshpiper/ssh_host_ed25519_key").read_text(),
    }
    secrets = {name: pem.splitlines()[-2].encode() for name, pem in pems.items()}  # a line of its own alone
    yield Ground(gateway, token, session, {"the token": token.encode(), **secrets})
    take_away(gateway)


def files(directory: Path) -> list[Path]:
    return [path for place in ("state", "sshpiper") for path in (directory / place).rglob("*")]


def test_what_holds_a_secret_is_closed_to_others_and_nothing_can_be_changed_by_them(ground: Ground) -> None:
    directory = ground.gateway.directory
    holders = {path.name for path in files(directory) if path.is_file() and ground.holding(path.read_bytes())}
    assert holders >= {"ssh_host_ed25519_key"}
    private = holders | {"pipe.yaml", "sessions.db", "sessions.db-wal", "sessions.db-shm", "copy.db"}
    for path in files(directory):
        mode = path.stat().st_mode & 0o777
        if path.is_socket() and path.name != "logins.sock":  # the gateway identifies the peer by its uid
            continue
        assert not mode & 0o022, f"{path} can be written by others: {mode:o}"
        assert path.name not in private or not mode & 0o077, f"{path} can be read by others: {mode:o}"
    assert private <= {path.name for path in files(directory)}


def test_no_answer_of_the_api_shows_one_but_that_to_the_create(ground: Ground) -> None:
    headers = {"Authorization": f"Bearer {ground.token}"}
    one = f"/sessions/{ground.session['session_id']}"
    for path in ("/sessions", one, f"{one}/events", "/events", f"/users/{USER}/keys", "/gpus", "/readyz"):
        answer = requests.get(ground.gateway.url + path, headers=headers, timeout=30)
        assert answer.ok
        assert ground.holding(answer.content) == [], path


def test_logs_command_lines_and_the_list_of_tokens_show_none_of_them(ground: Ground) -> None:
    requests.get(
        f"{ground.gateway.url}/sessions", headers={"Authorization": f"Bearer {ground.token}x"}, timeout=30
    )
    for name in ("serve", "router"):
        assert ground.holding(ground.gateway.log(name).encode()) == []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            assert ground.holding(process.read_bytes()) == [], process
    assert ground.holding(ground.gateway.run("token", "list").stdout.encode()) == []


def test_the_database_holds_no_token(ground: Ground) -> None:
    for path in (ground.gateway.directory / "state").glob("sessions.db*"):
        assert ground.token.encode() not in path.read_bytes()
