"""A notice: what the router says to a user who logs in without a route, and the notice's form in a file."""

import json
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

from gateway.domain.durations import in_words
from gateway.domain.pipe import is_session_id
from gateway.domain.ssh_keys import is_public_key
from gateway.domain.users import USER_ID
from gateway.languages import ENGLISH

LARGEST = 512 * 1024  # bytes; 20 of the largest keys and some
LEFT = "{left}"  # in a text: how long it is until a time


class NoticeState(StrEnum):
    ENDED = "ended"  # the user's last session has ended: the router sends the text and disconnects
    WAITING = "waiting"  # the user's request is in the waiting line: the text changes from time to time
    READY = "ready"  # the session opens now: its pipe appears within seconds
    OPEN = "open"  # the session has just opened: a login that was held reads this when it gets in


@dataclass(frozen=True, slots=True)
class Notice:
    """`session_id` is the session or the waiting request that the notice is about. `public_keys` prove who
    may read the notice, each as `type base64`. `text` has one sentence a line; the first line stands alone
    where only one fits, such as in the reason of a disconnect. If there is a time `until`, `{left}` in the
    text stands for how long it is until then, in words of `language`.

    The constructor raises `ValueError` for a notice without keys, or with characters that steer a terminal.
    """

    session_id: str
    state: NoticeState
    public_keys: tuple[str, ...]
    text: str
    until: datetime | None = None
    language: str = ENGLISH

    def __post_init__(self) -> None:
        checks = (
            (is_session_id(self.session_id), "session id"),
            (self.public_keys and all(map(is_public_key, self.public_keys)), "list of public keys"),
            (all(line and line.isprintable() for line in self.lines), "text"),
        )
        for valid, field_name in checks:
            if not valid:
                raise ValueError(f"The {field_name} of the notice is invalid.")

    @classmethod
    def load(cls, content: bytes) -> "Notice":
        """Return the notice of a file that `dump` filled. Raises `ValueError`."""
        try:
            fields: Mapping[str, Any] = json.loads(content)
            return cls(
                session_id=fields["session_id"],
                state=NoticeState(fields["state"]),
                public_keys=tuple(fields["public_keys"]),
                text=fields["text"],
                until=datetime.fromisoformat(fields["until"]) if fields.get("until") else None,
                language=fields.get("language", ENGLISH),
            )
        except (KeyError, TypeError, AttributeError, RecursionError, ValueError):
            raise ValueError("The file has no notice of the gateway.") from None

    def dump(self) -> bytes:
        fields = {
            "session_id": self.session_id,
            "state": self.state,
            "public_keys": list(self.public_keys),
            "text": self.text,
            "until": self.until.isoformat() if self.until else None,
            "language": self.language,
        }
        return json.dumps(fields, ensure_ascii=False).encode() + b"\n"

    @property
    def lines(self) -> list[str]:
        return self.text.split("\n")

    def read_at(self, now: datetime) -> list[str]:
        """The lines as a user reads them at this moment."""
        if self.until is None:
            return self.lines
        left = in_words(max(timedelta(), self.until - now), self.language)
        return [line.replace(LEFT, left) for line in self.lines]

    def admits(self, key: bytes) -> bool:
        """Whether `key`, in the wire's form, is one of the notice's."""
        return key in {b64decode(line.split()[1]) for line in self.public_keys}


def directory(pipe_file: Path) -> Path:
    return pipe_file.parent / "notices"


def path(pipe_file: Path, user_id: str) -> Path | None:
    """Return the file of the user's notice; None for a name that is no user id, and so has no file."""
    return directory(pipe_file) / user_id if USER_ID.fullmatch(user_id) else None
