"""What sessions on a cluster show their users: two files of the session's Secret."""

from base64 import b64decode
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime

from gateway.domain.board import Board
from gateway.repositories.files import board as board_files
from gateway.repositories.kubernetes.api import PODS, SECRETS, Api, Object
from gateway.repositories.kubernetes.objects import (
    LEASE_ENDS,
    MANAGED,
    SESSION,
    SHOWN_AT,
    encoded_files,
    key_of,
    name_of,
)

_MOST_ALONE = 50  # Secrets that are read one by one


class Boards:
    def __init__(self, api: Api, namespace: str) -> None:
        self._api = api
        self._namespace = namespace
        self._known: dict[str, Board] = {}  # what each session showed when this process last read it
        self._begun: dict[str, Board] = {}  # what each session that opens now shows from its beginning

    def begin(self, session_id: str, board: Board | None) -> None:
        """The Secret of a session that opens is made with this board."""
        if board:
            self._begun[session_id] = board

    def show(self, session_id: str, board: Board) -> None:
        """Replace the files. A change of the pod makes its kubelet renew them within seconds, instead of
        about a minute. A session that has ended is no error."""
        if self._begun.pop(session_id, None) == board:
            self._known[session_id] = board
            return
        secret = self._api.get(SECRETS, name_of(session_id), self._namespace)
        if secret is None:
            return
        texts = board_files.texts(_text(secret, board_files.MOTD), board)
        change = {"data": encoded_files({f"etc/{name}": text for name, text in texts.items()})}
        self._api.patch(SECRETS, name_of(session_id), change, self._namespace)
        notes = {LEASE_ENDS: board.facts.get("ends", ""), SHOWN_AT: datetime.now(UTC).isoformat()}
        self._api.patch(PODS, name_of(session_id), {"metadata": {"annotations": notes}}, self._namespace)
        self._known[session_id] = board

    def differing(self, boards: Mapping[str, Board]) -> Collection[str]:
        """Return the sessions that do not show their board. A Secret is read only if this process does not
        know that it shows it."""
        unknown = {id: board for id, board in boards.items() if self._known.get(id) != board}
        for session_id, secret in self._secrets(unknown):
            if session_id in unknown and _shows(secret, unknown[session_id]):
                self._known[session_id] = unknown.pop(session_id)
        return unknown.keys()

    def _secrets(self, session_ids: Collection[str]) -> Iterator[tuple[str, Object]]:
        """The Secrets of these sessions. Many are read by a list, which has those of others as well."""
        if len(session_ids) > _MOST_ALONE:
            for found in self._api.list(SECRETS, self._namespace, MANAGED):
                yield (found["metadata"].get("labels") or {}).get(SESSION, ""), found
            return
        for id in list(session_ids):
            if alone := self._api.get(SECRETS, name_of(id), self._namespace):
                yield id, alone

    def forget(self, session_id: str) -> None:
        self._known.pop(session_id, None)
        self._begun.pop(session_id, None)


def _shows(secret: Object, board: Board) -> bool:
    texts = board_files.texts(_text(secret, board_files.MOTD), board)
    return all(_text(secret, name) == text for name, text in texts.items())


def _text(secret: Object | None, name: str) -> str:
    data = (secret or {}).get("data") or {}
    return b64decode(data.get(key_of(f"etc/{name}"), "")).decode()
