"""The notices for users without a route: one small file for each user, beside the pipe file.

The router reads them, and nobody else: each has the mode and the owner of the pipe file. The directory stays
the gateway's, so that a router that runs as a user of its own can change nothing in it.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from gateway.domain import notice
from gateway.domain.notice import Notice
from gateway.domain.users import USER_ID
from gateway.repositories.lock import locked
from gateway.repositories.storage import replacing, translated_errors

_MODE, _DIRECTORY_MODE = 0o600, 0o711  # other accounts can enter the directory, but not list it
_translated_errors = partial(
    translated_errors, "The disk with the pipe file", "The notices cannot be read or written"
)


class NoticeFiles:
    """Raises `Unavailable`, `DiskFull`."""

    def __init__(self, pipe_file: Path) -> None:
        self._pipe_file = pipe_file
        self._directory = notice.directory(pipe_file)

    def update(self, user_id: str, wanted: Callable[[], Notice | None]) -> None:
        """Write the notice that `wanted` returns; None removes the user's notice.

        `wanted` is called under a lock that excludes other writers, so what it reads is still true when the
        notice is written.
        """
        path = self._path(user_id)
        with self._locked():
            if found := wanted():
                self._write(path, found.dump())
            else:
                path.unlink(missing_ok=True)

    def get(self, user_id: str) -> Notice | None:
        """Return the user's notice; None if there is none, or if its file is damaged."""
        with _translated_errors():
            try:
                return Notice.load(self._path(user_id).read_bytes())
            except (FileNotFoundError, ValueError):
                return None

    def all(self) -> dict[str, Notice | None]:
        """Every user's notice; None for a damaged one."""
        return {user_id: self.get(user_id) for user_id in self.users()}

    def users(self) -> set[str]:
        """Return the users who have a notice. Creates nothing."""
        with _translated_errors():
            names = os.listdir(self._directory) if self._directory.is_dir() else []
        return {name for name in names if USER_ID.fullmatch(name)}

    def _path(self, user_id: str) -> Path:
        path = notice.path(self._pipe_file, user_id)
        if path is None:
            raise ValueError(f"{user_id!r} is no user id")
        return path

    def _write(self, path: Path, content: bytes) -> None:
        """User ids begin with a letter or a digit, so the draft's name is never that of a notice. A notice
        that a power failure has damaged counts as none, and the reaper writes it again."""
        draft = path.with_name(f".{path.name}.draft")
        with replacing(path, _MODE, draft, like=self._pipe_file, is_durable=False) as file:
            file.write(content)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with _translated_errors():
            self._directory.mkdir(_DIRECTORY_MODE, parents=True, exist_ok=True)
            self._directory.chmod(_DIRECTORY_MODE)
            with locked(self._directory / ".lock", "write a notice"):
                yield
