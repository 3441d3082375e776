"""The lobby behind SSHPiper: users without a session read their notice there.

Without SSHPiper's binaries, the tests that need them are left out. An ssh client with the lobby's key then
takes SSHPiper's part.
"""

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.domain.notice import Notice, NoticeState
from gateway.repositories.files.lobby import Lobby, LobbyNotices
from gateway.repositories.files.notices import NoticeFiles
from gateway.repositories.files.pipes import Pipes
from tests.routes.ground import USER, Client, Keys, Router, Sshd, make_router

SENTENCE = "Your session (3g.20gb) ended 2025-01-17 18:00 KST: its lease was over, 4 hours."


@pytest.fixture
def lobby(tmp_path: Path) -> Iterator[Router]:
    router = make_router("embedded", tmp_path)
    facts(router).make_key()
    router.command += ["--lobby-key", str(tmp_path / "lobby_key.pub")]
    router.start()
    yield router
    router.stop()


def facts(lobby: Router) -> Lobby:
    host_key = lobby.directory / "ssh_host_ed25519_key.pub"
    return Lobby("127.0.0.1", lobby.port, lobby.directory / "lobby_key", [host_key])


def publish(lobby: Router, keys: Keys) -> None:
    """What the gateway does at the end of the user's session."""
    notice = Notice(f"session-of-{USER}", NoticeState.ENDED, (keys.public,), f"{SENTENCE}\nFiles are kept.")
    pipes = Pipes(lobby.config, has_lobby=True)
    LobbyNotices(NoticeFiles(lobby.config), pipes, facts(lobby)).update(USER, lambda: notice)
    pipes.remove(f"session-of-{USER}")


def login(client: Client) -> "subprocess.CompletedProcess[bytes]":
    return client.run("-o", "LogLevel=INFO", "--", "echo inside")


@pytest.fixture
def piper(lobby: Router, sshd: Sshd, tmp_path: Path) -> Client:
    """SSHPiper's part: it uses the lobby's key for every user."""
    return Client(lobby, sshd, tmp_path, Keys(lobby.directory / "lobby_key", ""))


def test_the_lobby_shows_the_notice_of_each_user_to_its_key(lobby: Router, piper: Client, keys: Keys) -> None:
    publish(lobby, keys)
    text = login(piper).stderr.decode()
    assert SENTENCE in text
    assert ":11: no session" in text


def test_the_lobby_opens_to_no_other_key(lobby: Router, piper: Client, keys: Keys, tmp_path: Path) -> None:
    publish(lobby, keys)
    user = Client(lobby, piper.sshd, tmp_path, keys)
    assert b"Permission denied (publickey)" in login(user).stderr
    Pipes(lobby.config, has_lobby=True).add(piper.sshd.pipe(USER, [keys.public]))
    assert b"Permission denied (publickey)" in login(user).stderr


def test_the_lobby_leads_into_a_session_and_never_to_itself(lobby: Router, piper: Client, keys: Keys) -> None:
    publish(lobby, keys)
    assert b"inside" not in login(piper).stdout
    Pipes(lobby.config, has_lobby=True).add(piper.sshd.pipe(USER, [keys.public]))
    assert login(piper).stdout == b"inside\n"


def test_a_user_without_notice_is_refused_by_the_lobby(piper: Client) -> None:
    assert b"Permission denied (publickey)" in login(piper).stderr


def wait_in_line(lobby: Router, keys: Keys) -> None:
    notice = Notice(f"session-of-{USER}", NoticeState.WAITING, (keys.public,), "You are 1st in line.")
    pipes = Pipes(lobby.config, has_lobby=True)
    LobbyNotices(NoticeFiles(lobby.config), pipes, facts(lobby)).update(USER, lambda: notice)


def opening_later(lobby: Router, sshd: Sshd, keys: Keys, seconds: float) -> threading.Timer:
    pipe = sshd.pipe(USER, [keys.public])
    timer = threading.Timer(seconds, lambda: Pipes(lobby.config, has_lobby=True).add(pipe))
    timer.start()
    return timer


def test_the_lobby_holds_the_login_of_a_user_who_waits(
    lobby: Router, piper: Client, sshd: Sshd, keys: Keys
) -> None:
    """Its heartbeats are empty banners, which print nothing and keep an impatient client."""
    wait_in_line(lobby, keys)
    timer = opening_later(lobby, sshd, keys, seconds=9)
    patience = ("-o", "ServerAliveInterval=3", "-o", "ServerAliveCountMax=2")
    done = piper.run("-o", "LogLevel=INFO", *patience, "--", "echo inside")
    timer.join()
    assert done.stdout == b"inside\n", done.stderr.decode()
    assert done.stderr.decode().replace("\r", "") == "  You are 1st in line.\n"


# With the genuine SSHPiper in front.


@pytest.fixture
def sshpiper(lobby: Router) -> Iterator[Router]:
    """It serves the same pipe file, with the same host key."""
    if not (os.environ.get("SSHPIPERD") and os.environ.get("SSHPIPER_YAML")):
        pytest.skip("SSHPIPERD and SSHPIPER_YAML do not name SSHPiper's binaries")
    (lobby.directory / "front").mkdir()
    front = make_router("sshpiper", lobby.directory / "front")
    front.command = [word.replace(str(front.config), str(lobby.config)) for word in front.command]
    front.start()
    yield front
    front.stop()


@pytest.mark.may_be_skipped
def test_sshpiper_passes_the_notice_on(
    lobby: Router, sshpiper: Router, sshd: Sshd, keys: Keys, tmp_path: Path
) -> None:
    client = Client(sshpiper, sshd, tmp_path, keys)
    Pipes(lobby.config, has_lobby=True).add(sshd.pipe(USER, [keys.public]))
    assert client.output("echo inside") == "inside\n"
    publish(lobby, keys)
    done = login(client)
    assert done.returncode == 255
    assert SENTENCE in done.stderr.decode()
    stranger = Client(sshpiper, sshd, tmp_path, Keys.make(tmp_path / "strange"))
    assert b"ended" not in login(stranger).stderr
    Pipes(lobby.config, has_lobby=True).add(sshd.pipe(USER, [keys.public]))
    assert client.output("echo inside") == "inside\n"


@pytest.mark.may_be_skipped
def test_a_login_through_sshpiper_waits_in_the_lobby(
    lobby: Router, sshpiper: Router, sshd: Sshd, keys: Keys, tmp_path: Path
) -> None:
    client = Client(sshpiper, sshd, tmp_path, keys)
    wait_in_line(lobby, keys)
    timer = opening_later(lobby, sshd, keys, seconds=5)
    done = login(client)
    timer.join()
    assert done.stdout == b"inside\n", done.stderr.decode()
    assert "You are 1st in line." in done.stderr.decode()
