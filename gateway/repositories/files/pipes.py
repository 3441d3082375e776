"""The SSH routes: the gateway's pipes in SSHPiper's pipe file.

SSHPiper reads the file at every login, so each publication is one atomic rename. A file that SSHPiper would
refuse (because of its mode or its YAML) is refused here first and reported.
"""

import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gateway.domain.pipe import Pipe, is_lobby, lobby_id
from gateway.domain.pipe_file import PipeFile
from gateway.errors import PipesUnavailable
from gateway.failpoints import reach
from gateway.repositories.lock import WAIT_SECONDS, locked, timed_out
from gateway.repositories.storage import replacing, translated_errors

Lines = dict[str, str]  # by session id
Signature = tuple[int, ...]

_translated_errors = partial(
    translated_errors,
    "The disk with the pipe file",
    "The pipe file cannot be read or written",
    PipesUnavailable,
)


@dataclass(frozen=True, slots=True)
class _Content:
    """The parsed file and its `signature`, to avoid reading an unchanged file again."""

    signature: Signature | None
    file: PipeFile
    lines: Lines


class Pipes:
    """`has_lobby`: pipes into the lobby belong in the file. They are no routes of sessions, so `list` leaves
    them out, and `replace` keeps them."""

    def __init__(self, path: Path, has_lobby: bool = False) -> None:
        self._path = path
        self._has_lobby = has_lobby
        self._content: _Content | None = None
        self._thread_lock = threading.Lock()

    def add(self, pipe: Pipe) -> None:
        """Publish `pipe`, in place of an earlier one of the same session."""
        self.update(lambda: pipe)

    def update(self, wanted: Callable[[], Pipe | None]) -> None:
        """Publish the pipe that `wanted` returns, in place of the one that its session had; None publishes
        nothing. It is called while nobody else can publish, so what it read is still true."""
        with self._locked() as content:
            if pipe := wanted():
                others = _without(content.lines, lobby_id(pipe.username))
                self._publish(content, {**others, pipe.session_id: content.file.line(pipe)})

    def update_lobby(self, user_id: str, wanted: Callable[[], Pipe | None]) -> None:
        """Publish the pipe into the lobby that `wanted` returns, below the pipes that are there; None removes
        the user's. It is called as that of `update`."""
        with self._locked() as content:
            pipe, others = wanted(), _without(content.lines, lobby_id(user_id))
            self._publish(content, {**others, pipe.session_id: content.file.line(pipe)} if pipe else others)

    def lobby(self) -> dict[str, Pipe]:
        """Return the pipes into the lobby as published, by user id."""
        content = self._published()
        pipes = [_pipe(content.file, line) for id, line in content.lines.items() if is_lobby(id)]
        return {pipe.username: pipe for pipe in pipes}

    def remove(self, session_id: str) -> None:
        """Remove the pipe of the session, if there is one."""
        with self._locked() as content:
            self._publish(content, _without(content.lines, session_id))

    def replace(self, wanted: Callable[[], Iterable[Pipe]]) -> None:
        """Publish exactly the pipes that `wanted` returns. It is called while the file is locked. A file
        that is missing is written even for no pipe: it says that the routes are known."""
        with self._locked() as content:
            kept = {id: line for id, line in content.lines.items() if self._has_lobby and is_lobby(id)}
            lines = {pipe.session_id: content.file.line(pipe) for pipe in wanted()} | kept
            self._publish(content, lines, is_missing=content.signature is None)

    def list(self) -> list[Pipe]:
        """Return the gateway's own pipes as published. Takes no lock and creates no file."""
        content = self._published()
        return [_pipe(content.file, line) for id, line in content.lines.items() if not is_lobby(id)]

    def routed_elsewhere(self, users: Iterable[str]) -> set[str]:
        """Return those of `users` whom a hand-written pipe above the gateway's matches."""
        file = self._published().file
        return {user for user in users if file.routes_elsewhere(user)}

    def version(self) -> Signature | None:
        """What identifies this version of the file, None if it cannot be seen. Raises nothing."""
        try:
            return _identity(self._path.lstat())
        except OSError:
            return None

    def check(self) -> None:
        """Raise the error that a publication would raise now, if any."""
        with self._locked():
            draft = _beside(self._path, "tmp")
            draft.write_bytes(b"")
            draft.unlink()

    def _published(self) -> _Content:
        with _translated_errors():
            signature, known = _signature(self._path), self._content
            return known if known and known.signature == signature else self._read(signature)

    @contextmanager
    def _locked(self) -> Iterator[_Content]:
        """Lock the file against other threads and processes, and return its content."""
        path, purpose = _beside(self._path, "lock"), "publish a route"
        with self._alone(purpose), _translated_errors(), locked(path, purpose, error=PipesUnavailable):
            signature = _signature(self._path)
            if self._content is None or self._content.signature != signature:
                self._content = self._read(signature)
            yield self._content

    @contextmanager
    def _alone(self, purpose: str) -> Iterator[None]:
        """One thread of this process at a time, which is fairer than the file lock."""
        if not self._thread_lock.acquire(timeout=WAIT_SECONDS):
            raise PipesUnavailable(timed_out(purpose, WAIT_SECONDS))
        try:
            yield
        finally:
            self._thread_lock.release()

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
            raise PipesUnavailable("The pipe file has two pipes for one session: remove one.")
        return _Content(signature, file, lines)

    def _publish(self, content: _Content, lines: Lines, is_missing: bool = False) -> None:
        if lines == content.lines and not is_missing:
            return
        for session_id, line in lines.items():
            if content.lines.get(session_id) != line:
                _pipe(content.file, line)  # checks it; the other lines were checked before

        def require_unchanged() -> None:
            reach("after-pipe-write", PipesUnavailable)
            if _signature(self._path) != content.signature:
                raise PipesUnavailable(
                    "Another program changed the pipe file during a publication: try again."
                )

        with replacing(self._path, 0o600, _beside(self._path, "tmp"), require_unchanged) as draft:
            draft.writelines(map(str.encode, content.file.parts(lines.values())))
        self._content = _Content(_signature(self._path), content.file, lines)


def _without(lines: Lines, session_id: str) -> Lines:
    return {id: line for id, line in lines.items() if id != session_id}


def _beside(path: Path, ending: str) -> Path:
    """Return a name that does not end in `.yaml`.

    SSHPiper accepts a glob, which also matches dotted names.
    """
    return path.with_name(f".{path.name}.{ending}")


def _signature(path: Path) -> Signature | None:
    """Return what identifies this version of the file, None if there is no file.

    Raises `PipesUnavailable` for a file that SSHPiper would refuse.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        raise PipesUnavailable("The pipe file is not a regular file: replace it by one.")
    if found.st_mode & 0o077:
        raise PipesUnavailable(
            f"Other users can read the pipe file, so SSHPiper refuses every login: chmod 600 {path.name}"
        )
    return _identity(found)


def _identity(found: os.stat_result) -> Signature:
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _pipe(file: PipeFile, line: str) -> Pipe:
    try:
        return Pipe.of(file.entry(line))
    except ValueError as error:
        raise PipesUnavailable(
            f"The pipe file has a damaged line between the marks: remove it. {error}"
        ) from None


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError:
        raise PipesUnavailable("The pipe file is not valid UTF-8: correct it by hand.") from None
