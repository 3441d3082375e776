"""The notice's form in a file, and whom it is for."""

import json
from base64 import b64decode
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway.domain import notice, ssh_keys
from gateway.domain.notice import Notice, NoticeState

KEY, OTHER = (ssh_keys.make_pair().public for _ in range(2))
ENDED = Notice("s1", NoticeState.ENDED, (KEY,), "Your session ended.\nYour files are kept, 대기 2번.")


@pytest.mark.parametrize("state", NoticeState)
def test_a_notice_is_read_back_from_its_file(state: NoticeState) -> None:
    written = replace(ENDED, state=state)
    assert Notice.load(written.dump()) == written


@pytest.mark.parametrize(("language", "left"), [("en", "38 minutes"), ("ko", "38분")])
def test_a_time_is_read_as_how_long_it_is_until_then(language: str, left: str) -> None:
    now = datetime(2025, 1, 17, 8, tzinfo=UTC)
    until, text = now + timedelta(minutes=38), "by 08:38 UTC ({left})"
    written = replace(ENDED, text=text, until=until, language=language)
    assert Notice.load(written.dump()) == written
    assert written.read_at(now) == [f"by 08:38 UTC ({left})"]
    assert replace(written, language="en").read_at(until + timedelta(hours=1)) == ["by 08:38 UTC (0 seconds)"]
    assert replace(written, until=None).read_at(now) == [text]


def test_a_notice_is_for_the_owner_of_one_of_its_keys() -> None:
    both = replace(ENDED, public_keys=(KEY, OTHER))
    key, other = (b64decode(line.split()[1]) for line in (KEY, OTHER))
    assert both.admits(key)
    assert both.admits(other)
    assert not ENDED.admits(other)


@pytest.mark.parametrize(
    "changes",
    [
        {"public_keys": ()},
        {"public_keys": ("ssh-ed25519 AAAA",)},
        {"text": ""},
        {"text": "red \x1b[31m"},
        {"text": "a bell \a"},
        {"session_id": "../etc"},
    ],
)
def test_a_notice_without_keys_or_with_characters_that_steer_terminals_is_refused(
    changes: dict[str, Any],
) -> None:
    with pytest.raises(ValueError, match="of the notice is invalid"):
        replace(ENDED, **changes)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        json.dumps({"session_id": "s1", "state": "unknown", "public_keys": [KEY], "text": "a"}).encode(),
        json.dumps({"session_id": "s1", "state": "ended", "public_keys": [1], "text": "a"}).encode(),
        json.dumps({"session_id": "s1", "state": "ended", "public_keys": [KEY], "text": 5}).encode(),
    ],
)
def test_a_damaged_file_has_no_notice(content: bytes) -> None:
    with pytest.raises(ValueError, match="no notice"):
        Notice.load(content)


def test_only_user_ids_have_a_file() -> None:
    pipe_file = Path("/etc/sshpiper/pipe.yaml")
    assert notice.path(pipe_file, "john.doe") == Path("/etc/sshpiper/notices/john.doe")
    for name in ("..", ".lock", "../pipe.yaml", "", "a/b", "a\0b", "a" * 33):
        assert notice.path(pipe_file, name) is None
