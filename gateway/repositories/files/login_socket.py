"""The unix socket beside the pipe file at which the embedded router reports SSH logins."""

import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gateway.domain.ssh_logins import LARGEST, SOCKET, Datagram
from gateway.errors import PipesUnavailable

log = logging.getLogger(__name__)


class LoginSocket:
    """Only root and the owner of the pipe file, as whom the router runs, can send."""

    def __init__(self, pipe_file: Path) -> None:
        self._pipe_file = pipe_file
        self._path = pipe_file.with_name(SOCKET)

    @contextmanager
    def listening(self) -> Iterator[Callable[[float], Datagram | None]]:
        """Return a function that waits so many seconds for a datagram, and returns None without one.

        The socket replaces that of another process. Both raise `PipesUnavailable`, the function when the
        socket was removed.
        """
        try:
            bound = self._bind()
        except OSError as error:
            raise PipesUnavailable(f"{self._path} cannot be made: {error.strerror}") from error
        with bound:
            yield lambda seconds: self._receive(bound, seconds)

    def _bind(self) -> socket.socket:
        """Bind by the number of the directory: the path of a socket has at most 107 characters."""
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        directory = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY)
        draft = self._path.with_name(f"{SOCKET}.new")
        try:
            draft.unlink(missing_ok=True)
            bound.bind(f"/proc/self/fd/{directory}/{draft.name}")
            draft.chmod(0o600)
            draft.rename(self._path)
        except BaseException:
            bound.close()
            raise
        finally:
            os.close(directory)
        self._share()
        return bound

    def _receive(self, bound: socket.socket, seconds: float) -> Datagram | None:
        self._share()
        bound.settimeout(seconds)
        try:
            return Datagram.decode(bound.recv(LARGEST))
        except TimeoutError:
            return None
        except ValueError as error:
            log.warning("a report of SSH logins is not readable", extra={"error": str(error)})
            return None

    def _share(self) -> None:
        """Give the socket to the owner of the pipe file, which may be made or given away later."""
        try:
            found = self._path.stat()
            with suppress(FileNotFoundError, PermissionError):
                owner = self._pipe_file.stat()
                if (owner.st_uid, owner.st_gid) != (found.st_uid, found.st_gid):
                    os.chown(self._path, owner.st_uid, owner.st_gid)
        except FileNotFoundError:
            raise PipesUnavailable(f"{self._path} was removed.") from None
        except OSError as error:
            raise PipesUnavailable(f"{self._path} cannot be used: {error.strerror}") from error
