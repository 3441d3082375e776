"""Why a session has ended, said to its user at the next login, and to nobody else.

The notices are the embedded router's; SSHPiper does not read them.
"""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.domain.notice import Notice, NoticeState
from gateway.repositories.files.notices import NoticeFiles
from tests.fakes.pipe_parts import key_pair
from tests.routes.ground import USER, Client, Keys, until

SENTENCE = "Your session (3g.20gb) ended 2025-01-17 18:00 KST: its lease was over, 4 hours."
TEXT = f"{SENTENCE}\nYour files are kept, 대기 2번."


@pytest.fixture(autouse=True)
def _embedded(request: pytest.FixtureRequest) -> None:
    if request.getfixturevalue("router").kind != "embedded":
        pytest.skip("SSHPiper reads no notices")


def notice_of(client: Client, user: str = USER, **changes: object) -> Notice:
    """The notice about the session that the user's pipe leads to."""
    ended = Notice(f"session-of-{user}", NoticeState.ENDED, (client.keys.public,), TEXT)
    return replace(ended, **changes)  # type: ignore[arg-type]


def publish(client: Client, notice: Notice | None, user: str = USER) -> None:
    NoticeFiles(client.router.config).update(user, lambda: notice)


@pytest.fixture
def ended(client: Client) -> Client:
    """A user whose session has ended."""
    publish(client, notice_of(client))
    client.router.pipes.replace(list)
    return client


def login(client: Client, *options: str) -> "subprocess.CompletedProcess[bytes]":
    """With the log level that people have: it shows banners and the reasons of disconnects."""
    return client.run("-o", "LogLevel=INFO", *options, "--", "echo inside")


def test_the_next_login_with_the_key_says_why_the_session_ended(ended: Client) -> None:
    done = login(ended)
    assert done.returncode == 255
    assert done.stdout == b""
    text = done.stderr.decode()
    assert f"  {SENTENCE}\n  Your files are kept, 대기 2번.\n" in text
    assert text.rstrip().splitlines()[-1].startswith(("Disconnected from", "Received disconnect"))
    assert ":11: no session" in text


@pytest.mark.parametrize("has_notice", [True, False])
def test_another_key_learns_nothing(client: Client, tmp_path: Path, has_notice: bool) -> None:
    publish(client, notice_of(client) if has_notice else None)
    client.router.pipes.replace(list)
    stranger = Client(client.router, client.sshd, tmp_path, Keys.make(tmp_path / "strange"))
    done = login(stranger)
    assert done.stderr.decode().replace("\r", "").rstrip() == (
        f"{USER}@127.0.0.1: Permission denied (publickey)."
    )


def test_the_public_key_alone_proves_nothing(ended: Client, tmp_path: Path) -> None:
    """The router accepts the key that is asked about, but the signature is of another one."""
    private, _ = key_pair()
    stolen = tmp_path / "stolen"
    stolen.write_text(private)
    stolen.chmod(0o600)
    Path(f"{stolen}.pub").write_text(ended.keys.public + "\n")
    done = login(Client(ended.router, ended.sshd, tmp_path, Keys(stolen, ended.keys.public)))
    assert b"ended" not in done.stderr
    assert b"Permission denied" in done.stderr


def test_a_notice_is_for_one_user(ended: Client, tmp_path: Path) -> None:
    for name in ("user2", "..", ".lock", "../pipe.yaml", f"{USER}\t"):
        done = login(Client(ended.router, ended.sshd, tmp_path, ended.keys, name))
        assert b"ended" not in done.stderr, name


def test_a_user_with_a_session_gets_into_it_whatever_the_notice_says(client: Client) -> None:
    publish(client, notice_of(client))
    assert client.output("echo inside") == "inside\n"


def test_no_notice_no_more(ended: Client) -> None:
    publish(ended, None)
    assert b"Permission denied (publickey)" in login(ended).stderr


@pytest.mark.parametrize("damage", ["mode", "content", "link", "pipe", "directory"])
def test_a_file_that_is_not_the_gateway_s_says_nothing(ended: Client, damage: str) -> None:
    file = ended.router.directory / "notices" / USER
    other = file.with_name("elsewhere")
    try:
        if damage == "mode":
            file.chmod(0o644)
        elif damage == "content":
            file.write_text("{")
        else:
            file.rename(other)
            if damage == "link":
                file.symlink_to(other)
            elif damage == "pipe":
                os.mkfifo(file, 0o600)
            else:
                file.mkdir()
        assert b"Permission denied (publickey)" in login(ended).stderr
    finally:
        if damage == "directory":
            file.rmdir()
        other.unlink(missing_ok=True)
        file.unlink(missing_ok=True)


def test_a_live_connection_ends_with_the_same_sentence(client: Client) -> None:
    with client.running("-o", "LogLevel=INFO", "--", "echo inside; exec sleep 60") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"inside\n"
        publish(client, notice_of(client))
        client.router.pipes.replace(list)
        assert process.wait(timeout=10) == 255
        assert f":11: {SENTENCE}" in process.stderr.read().decode()


def test_the_notice_of_another_session_is_no_reason(client: Client) -> None:
    with client.running("-o", "LogLevel=INFO", "--", "echo inside; exec sleep 60") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"inside\n"
        publish(client, notice_of(client, session_id="an-older-one"))
        client.router.pipes.replace(list)
        assert process.wait(timeout=10) == 255
        text = process.stderr.read().decode()
    assert "taken away: the session has ended" in text
    assert SENTENCE not in text


def test_logins_without_a_session_never_block_the_address(ended: Client) -> None:
    """Each one has proved a key. 60 points would block the address; refusals cost two each."""
    for _ in range(40):
        assert b"no session" in login(ended).stderr
    until(lambda: b"no session" in login(ended).stderr)
