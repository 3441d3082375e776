"""The lobby of a cluster: an embedded router behind SSHPiper, to which Pipes lead users who have a notice.

SSHPiper knows routes alone. So each user with a notice gets a Pipe from the user's keys to the lobby, which
shows the notice, or holds the login until the session is open. While a user has this Pipe and that of a
session, SSHPiper takes either: the lobby leads into the session as well.
"""

from base64 import b64decode
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from gateway.domain import ssh_keys
from gateway.domain.notice import Notice, NoticeState
from gateway.domain.pipe import Pipe, lobby_id
from gateway.errors import PipesUnavailable
from gateway.repositories.kubernetes.api import PIPES, SECRETS, AlreadyExists, Api, Object
from gateway.repositories.kubernetes.notices import ClusterNotices, name_part, user_of
from gateway.repositories.kubernetes.objects import (
    CONTENT,
    DEPLOYMENT,
    MANAGED,
    PRIVATE_KEY,
    USER,
    encoded,
    pipe_to,
    ssh_secret,
)
from gateway.repositories.kubernetes.pipes import pipe_named

LOBBY = {**MANAGED, CONTENT: "lobby"}
SECRET = "lobby"
# Never `ssh-publickey`: SSHPiper takes that for a certificate.
_OPENS, _HOST_KEY = "lobby_key.pub", "ssh_host_ed25519_key"


@dataclass(frozen=True)
class Lobby:
    """Where SSHPiper reaches the lobby. Its keys are in the Secret `lobby`, which its pod mounts: the one
    that opens it, and its host key. Raises `KubernetesUnavailable`."""

    api: Api
    namespace: str
    host: str
    port: int

    def keys(self) -> Object:
        """Return the Secret, which the first call makes."""
        found = self.api.get(SECRETS, SECRET, self.namespace)
        if found is None:
            with suppress(AlreadyExists):  # another replica was faster
                return self.api.create(self._new_keys())
            found = self.api.get(SECRETS, SECRET, self.namespace)
        return found or {}

    def pipe(self, user_id: str, notice: Notice, keys: Object) -> Pipe:
        """Raises `PipesUnavailable` for keys that are damaged."""
        data = keys.get("data") or {}
        try:
            return Pipe(
                session_id=lobby_id(user_id),
                username=user_id,
                public_keys=notice.public_keys,
                host=self.host,
                port=self.port,
                private_key=_text(data, PRIVATE_KEY),
                host_key=_text(data, f"{_HOST_KEY}.pub"),
            )
        except (KeyError, ValueError):
            raise PipesUnavailable(
                f"The Secret {SECRET} in {self.namespace} is damaged: delete it, and restart the lobby."
            ) from None

    def _new_keys(self) -> Object:
        opens, host = ssh_keys.make_pair(), ssh_keys.make_pair()
        texts = {
            PRIVATE_KEY: opens.private,
            _OPENS: opens.public,
            _HOST_KEY: host.private,
            f"{_HOST_KEY}.pub": host.public,
        }
        metadata = {"name": SECRET, "namespace": self.namespace, "labels": LOBBY}
        return ssh_secret(metadata, {name: encoded(text) for name, text in texts.items()})


class LobbyNotices:
    """The notices of a cluster, and a Pipe into the lobby for each."""

    def __init__(self, notices: ClusterNotices, lobby: Lobby) -> None:
        self._notices = notices
        self._lobby = lobby
        self._api = lobby.api
        self._namespace = lobby.namespace

    def update(self, user_id: str, wanted: Callable[[], Notice | None]) -> None:
        """As `ClusterNotices.update`. The Pipe changes while no other process can change the notice."""

        def with_pipe() -> Notice | None:
            notice = wanted()
            self._lead(user_id, notice)
            return notice

        self._notices.update(user_id, with_pipe)

    def get(self, user_id: str) -> Notice | None:
        """As `ClusterNotices.get`; None as well if the notice has no Pipe, or a wrong one."""
        found = self._api.get(PIPES, self._name_of(user_id), self._namespace)
        return self._checked(user_id, self._notices.get(user_id), found, self._lobby.keys())

    def all(self) -> dict[str, Notice | None]:
        labels = {**LOBBY, DEPLOYMENT: self._notices.deployment()}
        pipes = {user_of(found): found for found in self._api.list(PIPES, self._namespace, labels)}
        notices, keys = self._notices.all(), self._lobby.keys()
        return {
            user_id: self._checked(user_id, notices.get(user_id), pipes.get(user_id), keys)
            for user_id in notices.keys() | pipes.keys()
        }

    def _lead(self, user_id: str, notice: Notice | None) -> None:
        """Publish the user's Pipe into the lobby, or remove it."""
        name = self._name_of(user_id)
        pipe = self._pipe(user_id, notice, self._lobby.keys())
        if pipe is None:
            self._api.delete(PIPES, name, self._namespace)
            return
        metadata = {
            "name": name,
            "namespace": self._namespace,
            "labels": {**LOBBY, DEPLOYMENT: self._notices.deployment()},
            "annotations": {USER: user_id},
        }
        manifest = pipe_to(metadata, pipe, SECRET)
        try:
            self._api.create(manifest)
        except AlreadyExists:
            self._api.patch(PIPES, name, {"spec": manifest["spec"]}, self._namespace)

    def _checked(
        self, user_id: str, notice: Notice | None, found: Object | None, keys: Object
    ) -> Notice | None:
        try:
            published = pipe_named(found, {SECRET: keys}, lobby_id(user_id)) if found else None
        except PipesUnavailable:
            return None
        return notice if published == self._pipe(user_id, notice, keys) else None

    def _pipe(self, user_id: str, notice: Notice | None, keys: Object) -> Pipe | None:
        """None without a notice, and once the session is open: its own Pipe is there."""
        if notice is None or notice.state is NoticeState.OPEN:
            return None
        return self._lobby.pipe(user_id, notice, keys)

    def _name_of(self, user_id: str) -> str:
        return f"l-{name_part(self._notices.deployment(), user_id)}"


def _text(data: Mapping[str, Any], name: str) -> str:
    return b64decode(data[name], validate=True).decode()
