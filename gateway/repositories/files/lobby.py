"""The lobby: an embedded router behind SSHPiper, to which SSHPiper routes the users who have a notice.

SSHPiper knows routes alone. So each user with a notice gets a pipe from the user's keys to the lobby, with a
key that the lobby trusts. The lobby then shows the notice, as the embedded router does at the entry point.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.domain import ssh_keys
from gateway.domain.notice import Notice, NoticeState
from gateway.domain.pipe import Pipe, lobby_id
from gateway.errors import Unavailable
from gateway.repositories.files.notices import NoticeFiles
from gateway.repositories.files.pipes import Pipes
from gateway.repositories.storage import replacing


@dataclass(frozen=True)
class Lobby:
    """Where the lobby listens. `key` is the file of the private key that opens it; its public half, with the
    ending `.pub`, is for the lobby. `host_keys` are the files that may have the lobby's public host key."""

    host: str
    port: int
    key: Path
    host_keys: Sequence[Path]

    def pipe(self, user_id: str, notice: Notice) -> Pipe:
        return Pipe(
            session_id=lobby_id(user_id),
            username=user_id,
            public_keys=notice.public_keys,
            host=self.host,
            port=self.port,
            private_key=self.key.read_text(),
            host_key=self._host_key(),
        )

    def make_key(self) -> None:
        """Make the key pair, unless there is one."""
        if not self.key.exists():
            pair = ssh_keys.make_pair()
            self.key.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            for path, mode, content in (
                (Path(f"{self.key}.pub"), 0o644, f"{pair.public}\n"),
                (self.key, 0o600, pair.private),
            ):
                with replacing(path, mode, path.with_name(f".{path.name}.{os.getpid()}")) as file:
                    file.write(content.encode())

    def _host_key(self) -> str:
        for path in self.host_keys:
            if path.exists():
                return " ".join(path.read_text().split()[:2])
        names = ", ".join(map(str, self.host_keys))
        raise Unavailable(f"The public host key of the lobby is missing ({names}): start the lobby once.")


@dataclass(frozen=True)
class LobbyNotices:
    """The notices in files, and a pipe into the lobby for each. Raises `Unavailable`, `DiskFull`."""

    files: NoticeFiles
    pipes: Pipes
    lobby: Lobby

    def update(self, user_id: str, wanted: Callable[[], Notice | None]) -> None:
        """As `NoticeFiles.update`. The notice is there before its pipe. The pipe of an open session takes the
        place of the one into the lobby by itself."""
        self.files.update(user_id, wanted)
        if not self._is_open(user_id):
            self.pipes.update_lobby(user_id, lambda: self._pipe(user_id))

    def get(self, user_id: str) -> Notice | None:
        """As `NoticeFiles.get`; None as well if the notice has no pipe, or a wrong one."""
        if self._is_open(user_id):
            return self.files.get(user_id)
        is_published = self.pipes.lobby().get(user_id) == self._pipe(user_id)
        return self.files.get(user_id) if is_published else None

    def all(self) -> dict[str, Notice | None]:
        return {user_id: self.get(user_id) for user_id in self.users()}

    def users(self) -> set[str]:
        return self.files.users() | self.pipes.lobby().keys()

    def _is_open(self, user_id: str) -> bool:
        notice = self.files.get(user_id)
        return notice is not None and notice.state is NoticeState.OPEN

    def _pipe(self, user_id: str) -> Pipe | None:
        notice = self.files.get(user_id)
        try:
            return self.lobby.pipe(user_id, notice) if notice else None
        except OSError as error:
            raise Unavailable(f"The lobby's keys cannot be read ({error.strerror}).") from error
