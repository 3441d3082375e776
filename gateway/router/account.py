"""The account that the router runs as: it reads the pipe file, the notices and its host keys."""

import os
import pwd
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gateway.domain import notice
from gateway.errors import StartRefused

_ROOT = 0


@dataclass(frozen=True, slots=True)
class Account:
    name: str
    uid: int
    gid: int

    @classmethod
    def named(cls, name: str) -> "Account":
        """Return the account. Raises `StartRefused` if there is none, or if it is root."""
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            raise StartRefused(
                f"--user: there is no account {name!r}: make it with "
                f"`useradd --system --no-create-home --shell /usr/sbin/nologin {name}`."
            ) from None
        if found.pw_uid == _ROOT:
            raise StartRefused(f"--user: {name} is root: name an account without rights.")
        return cls(name, found.pw_uid, found.pw_gid)

    @property
    def is_ours(self) -> bool:
        """Whether this process runs as the account already."""
        return os.geteuid() == self.uid

    def require_root(self) -> None:
        """Raise `StartRefused` unless this process can give files to the account and become it."""
        if os.geteuid() != _ROOT:
            raise StartRefused(f"--user: only root can become {self.name}: start the router as root.")

    def take_over(self, pipe_file: Path, host_keys: Iterable[Path]) -> None:
        """Give the account what the router reads. A pipe file that is missing is made, without a pipe.

        The gateway keeps the owner of the pipe file, and gives it to each notice. Directories stay root's.
        Raises `StartRefused`."""
        try:
            pipe_file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            with suppress(FileExistsError):
                os.close(os.open(pipe_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            for path in (pipe_file, *host_keys, *_notices(pipe_file)):
                self._give(path)
        except OSError as error:
            raise StartRefused(
                f"--user: {error.filename or pipe_file} cannot be given to {self.name}: {error.strerror}."
            ) from error

    def become(self) -> None:
        """Give up root for good. Raises `StartRefused`."""
        try:
            os.setgroups([])
            os.setresgid(self.gid, self.gid, self.gid)
            os.setresuid(self.uid, self.uid, self.uid)
        except OSError as error:
            raise StartRefused(f"--user: cannot become {self.name}: {error.strerror}.") from error

    def _give(self, path: Path) -> None:
        found = path.lstat()
        if (found.st_uid, found.st_gid) != (self.uid, self.gid):
            os.chown(path, self.uid, self.gid, follow_symlinks=False)


def _notices(pipe_file: Path) -> list[Path]:
    directory = notice.directory(pipe_file)
    return [path for path in directory.iterdir() if path.is_file()] if directory.is_dir() else []
