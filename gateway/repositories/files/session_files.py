"""The files that a session's sshd and login shells read. Docker mounts them read-only into the container."""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path

from gateway.domain.board import Board
from gateway.domain.mig import Gpu
from gateway.domain.plan import Allocation, SessionRequest
from gateway.errors import Unavailable
from gateway.languages import ENGLISH
from gateway.repositories.files import board, door
from gateway.repositories.files.session_contents import PROGRAMS, EgressProxy, SliceText, contents
from gateway.repositories.lock import keep_private, take, wait
from gateway.repositories.storage import translated_errors

_translated_errors = partial(
    translated_errors, "The disk of the gateway's state", "The session's files cannot be read or written"
)


class HostSessionFiles:
    """One directory for each session: `passwd`, `group`, and `etc/`, which becomes /etc/gateway."""

    def __init__(
        self,
        root: Path,
        egress_proxy: EgressProxy | None = None,
        door: Path | None = None,
        language: str = ENGLISH,
    ) -> None:
        """`door` is the socket that sessions call the gateway by; None if this process serves none. The users
        read texts in `language`."""
        self._root = root
        self._egress = egress_proxy
        self._door = door
        self._language = language

    def check(self) -> None:
        """Raises `Unavailable` if a session could not execute its login shell, or if nothing can be
        written."""
        with _translated_errors():
            existing = next(path for path in (self._root, *self._root.parents) if path.exists())
            flags = os.statvfs(existing).f_flag
        if flags & os.ST_RDONLY:
            raise Unavailable(
                "The disk of the session files is mounted read-only, as the kernel does after an error of a "
                "disk: see dmesg, and remount it."
            )
        if flags & os.ST_NOEXEC:
            raise Unavailable(
                f"{existing} is mounted with noexec, and the login shells of sessions are there: remount it "
                "with exec, or choose another directory with --state-dir (GATEWAY_STATE_DIR)."
            )

    def write(self, request: SessionRequest, gpu: Gpu, allocation: Allocation) -> Path:
        directory = self._root / request.session_id
        with _translated_errors():
            (directory / "etc/bin").mkdir(parents=True, exist_ok=True)
            for each in ("etc", "etc/bin"):
                (directory / each).chmod(0o755)  # sessions read it, whatever the gateway's umask is
            slice_ = SliceText.of(gpu, allocation, self._language)
            for name, content in contents(request, slice_, self._egress, language=self._language).items():
                (directory / name).write_text(content)
                (directory / name).chmod(0o555 if name in PROGRAMS else 0o444)
            _write_private(directory / "etc/ssh_host_ed25519_key", request.host_key.private, request.uid)
            if self._door:
                door.hang(self._door, directory / "etc")
        return directory

    def hang_doors(self) -> None:
        """Lead the door of every session to this process."""
        if self._door is None:
            return
        with _translated_errors():
            for session_id in self._ids():
                with suppress(FileNotFoundError, NotADirectoryError):
                    door.hang(self._door, self._root / session_id / "etc")

    def show(self, session_id: str, wanted: Callable[[], Board | None]) -> None:
        """Write the board that `wanted` returns into the session's files, if the session still has files."""
        with _translated_errors(), suppress(FileNotFoundError):
            board.replace(self._root / session_id / "etc", wanted)

    def shows(self, session_id: str, expected: Board) -> bool:
        with _translated_errors():
            return board.shows(self._root / session_id / "etc", expected)

    def lease_end(self, session_id: str) -> datetime | None:
        """Return the end of the lease from the session's files; None if they have none."""
        with _translated_errors():
            return board.lease_end(self._root / session_id / "etc")

    def remove(self, session_id: str) -> None:
        shutil.rmtree(self._root / session_id, ignore_errors=True)

    def list(self) -> Mapping[str, bool]:
        """Return the ids of the sessions that have files, and whether a process holds the claim on each."""
        with _translated_errors():
            return {id: bool(self._is_claimed(id)) for id in self._ids()}

    def _ids(self) -> Sequence[str]:
        return sorted(os.listdir(self._root)) if self._root.is_dir() else []

    def is_claimed(self, session_id: str) -> bool | None:
        """Whether a live process holds the claim; None if the session has no directory on this host, or if it
        cannot be read."""
        try:
            return self._is_claimed(session_id)
        except OSError:
            return None

    def _is_claimed(self, session_id: str) -> bool | None:
        try:
            directory = os.open(self._root / session_id, os.O_RDONLY | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            fcntl.flock(directory, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(directory)
        return False

    @contextmanager
    def claim(self, session_id: str) -> Iterator[None]:
        """Lock the session's directory, which is created if it is missing. The lock ends with its process."""
        directory = self._locked(self._root / session_id)
        try:
            yield
        finally:
            os.close(directory)

    def _locked(self, path: Path) -> int:
        """Return the locked directory. Other accounts must not open it, because they could then lock it."""
        while True:
            with _translated_errors():
                self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
                keep_private(self._root)
                path.mkdir(mode=0o755, exist_ok=True)
                directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                wait(partial(take, directory), f"work on session {path.name}")
            except Unavailable:
                os.close(directory)
                raise
            with suppress(FileNotFoundError):
                if os.path.samestat(os.stat(path), os.fstat(directory)):
                    return directory
            os.close(directory)  # it was removed before this process locked it


def _write_private(path: Path, content: str, uid: int) -> None:
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(content)
    os.chown(path, uid, uid)
