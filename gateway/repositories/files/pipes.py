"""The routes: the gateway's pipes in SSHPiper's pipe file.

SSHPiper reads the file at every login, so each publication is one rename, and what it would refuse
(an open mode, broken YAML) is refused here before it is published and reported where it was found.
"""

import errno
import fcntl
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from gateway.domain.pipe import Pipe
from gateway.domain.pipe_file import PipeFile
from gateway.errors import DiskFull, PipesUnavailable
from gateway.failpoints import reach

Lines = dict[str, str]  # session id -> its line
Signature = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Content:
    """What the file held when it looked like `signature`, so that it need not be read again."""

    signature: Signature | None
    file: PipeFile
    lines: Lines


class Pipes:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._content: _Content | None = None
        self._thread_lock = threading.Lock()

    def add(self, pipe: Pipe) -> None:
        """Publish `pipe` in place of the one that its session had."""
        self.update(lambda: pipe)

    def update(self, wanted: Callable[[], Pipe | None]) -> None:
        """Publish the pipe that `wanted` returns, in place of the one that its session had; None publishes
        nothing. It is called while nobody else can publish, so what it read is still true."""
        with self._locked() as content:
            if pipe := wanted():
                self._publish(content, {**content.lines, pipe.session_id: content.file.line(pipe)})

    def remove(self, session_id: str) -> None:
        """Already gone is success."""
        with self._locked() as content:
            self._publish(content, {key: line for key, line in content.lines.items() if key != session_id})

    def replace(self, wanted: Callable[[], Iterable[Pipe]]) -> None:
        """Publish exactly the pipes that `wanted` names; it is asked while nobody else can publish."""
        with self._locked() as content:
            self._publish(content, {pipe.session_id: content.file.line(pipe) for pipe in wanted()})

    def list(self) -> list[Pipe]:
        """The gateway's own pipes, as they are published; waits for nobody and makes no file."""
        content = self._published()
        return [_pipe(content.file, line) for line in content.lines.values()]

    def routed_elsewhere(self, users: Iterable[str]) -> set[str]:
        """Those of `users` whom a pipe written by hand takes before the gateway's own could."""
        file = self._published().file
        return {user for user in users if file.routes_elsewhere(user)}

    def check(self) -> None:
        """Raises what keeps pipes from being published, if anything does."""
        with self._locked(), _temporary(self._path):
            pass

    def _published(self) -> _Content:
        with _errors_told():
            signature, known = _signature(self._path), self._content
            return known if known and known.signature == signature else self._read(signature)

    @contextmanager
    def _locked(self) -> Iterator[_Content]:
        """The file's content, while no thread and no process but this one changes it."""
        with self._thread_lock, _errors_told(), _lock_file(self._path) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            signature = _signature(self._path)
            if self._content is None or self._content.signature != signature:
                self._content = self._read(signature)
            yield self._content

    def _read(self, signature: Signature | None) -> _Content:
        file = PipeFile.parse(_text(self._path) if signature else "")
        before = self._content
        alike = before is not None and (before.file.indent, before.file.newline) == (
            file.indent,
            file.newline,
        )
        known = {line: key for key, line in before.lines.items()} if before and alike else {}
        lines = {known.get(line) or _pipe(file, line).session_id: line for line in file.lines}
        if len(lines) != len(file.lines):
            raise PipesUnavailable("The pipe file has two pipes for one session; remove one.")
        return _Content(signature, file, lines)

    def _publish(self, content: _Content, lines: Lines) -> None:
        if lines == content.lines:
            return
        for session_id, line in lines.items():
            if content.lines.get(session_id) != line:
                _pipe(content.file, line)  # the other lines were parsed before
        with _temporary(self._path) as temporary:
            temporary.writelines(map(str.encode, content.file.parts(lines.values())))
            temporary.flush()
            os.fsync(temporary.fileno())
            reach("after-pipe-write", PipesUnavailable)
            if _signature(self._path) != content.signature:
                raise PipesUnavailable("The pipe file was edited while a pipe was published; try again.")
            os.rename(_beside(self._path, "tmp"), self._path)
        _sync_directory(self._path.parent)
        self._content = _Content(_signature(self._path), content.file, lines)


def _lock_file(path: Path) -> IO[bytes]:
    """Beside the file, which is replaced and so cannot be locked itself."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    return open(_beside(path, "lock"), "ab")


def _beside(path: Path, ending: str) -> Path:
    """Not `*.yaml`: SSHPiper takes a glob, and its globs match dotted names too."""
    return path.with_name(f".{path.name}.{ending}")


def _signature(path: Path) -> Signature | None:
    """None when there is no file; one that SSHPiper would refuse is refused."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        raise PipesUnavailable("The pipe file is not a regular file; put one in its place.")
    if found.st_mode & 0o077:
        raise PipesUnavailable(f"The pipe file is open to others, so nobody gets in: chmod 600 {path.name}")
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _pipe(file: PipeFile, line: str) -> Pipe:
    try:
        return Pipe.of(file.entry(line))
    except ValueError as error:
        raise PipesUnavailable(f"The pipe file is damaged between the marks: {error}") from None


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError:
        raise PipesUnavailable("The pipe file is not UTF-8; correct it by hand.") from None


@contextmanager
def _temporary(path: Path) -> Iterator[IO[bytes]]:
    """An empty file beside `path` with the owner of the one there; gone at the end unless renamed."""
    temporary = _beside(path, "tmp")
    with suppress(FileNotFoundError):
        temporary.unlink()  # of a process that was killed
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb", buffering=1 << 20) as file:
            os.fchmod(descriptor, 0o600)
            with suppress(FileNotFoundError):
                owner = path.lstat()
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
            yield file
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _errors_told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull("The disk that holds the pipe file is full; free some space on it.") from error
        raise PipesUnavailable(f"The pipe file cannot be read or written: {error.strerror}.") from error
