"""The contract of the notices in files and in memory, then what only the files have."""

import errno
import os
import stat
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.domain import ssh_keys
from gateway.domain.notice import Notice, NoticeState
from gateway.errors import DiskFull
from gateway.repositories.files import notices as module
from gateway.repositories.files.notices import NoticeFiles
from tests.fakes.notices import FakeNotices

ENDED = Notice("s1", NoticeState.ENDED, (ssh_keys.make_pair().public,), "Your session ended.")


@pytest.fixture
def pipe_file(tmp_path: Path) -> Path:
    return tmp_path / "pipe.yaml"


@pytest.fixture(params=["files", "memory"])
def notices(request: pytest.FixtureRequest, pipe_file: Path) -> NoticeFiles | FakeNotices:
    return NoticeFiles(pipe_file) if request.param == "files" else FakeNotices()


# The contract.


def test_there_are_no_notices_at_first(notices: NoticeFiles | FakeNotices) -> None:
    assert notices.users() == set()
    assert notices.get("user123") is None


def test_a_notice_is_written_replaced_and_removed(notices: NoticeFiles | FakeNotices) -> None:
    later = replace(ENDED, session_id="s2")
    notices.update("user123", lambda: ENDED)
    notices.update("john.doe", lambda: ENDED)
    notices.update("user123", lambda: later)
    assert notices.get("user123") == later
    assert notices.users() == {"user123", "john.doe"}
    notices.update("user123", lambda: None)
    notices.update("user123", lambda: None)
    assert notices.get("user123") is None
    assert notices.users() == {"john.doe"}


# The files.


def test_only_the_router_can_read_a_notice_and_only_the_gateway_can_replace_it(pipe_file: Path) -> None:
    pipe_file.write_text("")
    os.chown(pipe_file, 4711, 4712)
    NoticeFiles(pipe_file).update("user123", lambda: ENDED)
    found = (pipe_file.parent / "notices/user123").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (4711, 4712, 0o600)
    directory = (pipe_file.parent / "notices").stat()
    assert (directory.st_uid, stat.S_IMODE(directory.st_mode)) == (os.geteuid(), 0o711)


def test_the_names_of_drafts_and_locks_are_no_users(pipe_file: Path) -> None:
    NoticeFiles(pipe_file).update("user123", lambda: ENDED)
    directory = pipe_file.parent / "notices"
    (directory / ".user123.draft").write_text("of a killed process")
    assert NoticeFiles(pipe_file).users() == {"user123"}
    NoticeFiles(pipe_file).update("user123", lambda: ENDED)
    assert sorted(os.listdir(directory)) == [".lock", "user123"]


def test_a_damaged_notice_counts_as_none_and_is_replaced(pipe_file: Path) -> None:
    files = NoticeFiles(pipe_file)
    files.update("user123", lambda: ENDED)
    (pipe_file.parent / "notices/user123").write_text('{"state": ')
    assert files.get("user123") is None
    files.update("user123", lambda: ENDED)
    assert files.get("user123") == ENDED


def test_what_a_writer_read_is_still_true_when_it_writes(pipe_file: Path) -> None:
    truth, reading = ["first"], threading.Event()

    def slow() -> Notice:
        text = truth[-1]
        reading.set()
        threading.Event().wait(0.05)
        return replace(ENDED, text=text)

    writer = threading.Thread(target=NoticeFiles(pipe_file).update, args=("user123", slow))
    writer.start()
    reading.wait()
    truth.append("second")
    NoticeFiles(pipe_file).update("user123", lambda: replace(ENDED, text=truth[-1]))
    writer.join()
    found = NoticeFiles(pipe_file).get("user123")
    assert found is not None
    assert found.text == "second"


def test_a_full_disk_is_named_and_the_old_notice_stays(
    pipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = NoticeFiles(pipe_file)
    files.update("user123", lambda: ENDED)

    def full(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "replacing", full)
    with pytest.raises(DiskFull, match="disk with the pipe file"):
        files.update("user123", lambda: replace(ENDED, text="new"))
    assert files.get("user123") == ENDED
