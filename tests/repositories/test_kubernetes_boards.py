"""Which sessions on a cluster show something else than they should, and what the answer costs."""

from base64 import b64encode

import pytest

from gateway.domain import session_texts
from gateway.domain.board import Board
from gateway.repositories.files import board as board_files
from gateway.repositories.kubernetes.boards import Boards
from gateway.repositories.kubernetes.objects import MANAGED, SESSION, key_of, name_of
from tests.fakes.kubernetes import FakeKubernetes

NAMESPACE = "gpu-sessions"
LABEL = session_texts.lease_labels()["en"]
SHOWN, OTHER = (Board(LABEL, text, {}, {"ends": text}) for text in ("today", "tomorrow"))


class Ground:
    def __init__(self) -> None:
        self.cluster = FakeKubernetes()
        self.boards = Boards(self.cluster.api, NAMESPACE)

    def add(self, count: int) -> list[str]:
        """Sessions that show SHOWN."""
        ids = [f"session-{number}" for number in range(count)]
        for id in ids:
            texts = board_files.texts("", SHOWN)
            data = {key_of(f"etc/{name}"): b64encode(text.encode()).decode() for name, text in texts.items()}
            labels = {**MANAGED, SESSION: id}
            metadata = {"name": name_of(id), "namespace": NAMESPACE, "labels": labels}
            self.cluster.put("secrets", {"metadata": metadata, "data": data})
        return ids


@pytest.fixture
def ground() -> Ground:
    return Ground()


@pytest.mark.parametrize("count", [3, 200])
def test_sessions_that_show_something_else_or_nothing_are_found(ground: Ground, count: int) -> None:
    first, *others = ground.add(count)
    boards = {first: OTHER, "never-was": SHOWN, **dict.fromkeys(others, SHOWN)}
    assert set(ground.boards.differing(boards)) == {first, "never-was"}


def test_what_is_known_is_not_read_again(ground: Ground) -> None:
    boards = dict.fromkeys(ground.add(200), SHOWN)
    assert not ground.boards.differing(boards)
    ground.cluster.requests.clear()
    assert not ground.boards.differing(boards)
    assert ground.cluster.requests == []


def test_many_secrets_are_read_by_a_list(ground: Ground) -> None:
    ground.boards.differing(dict.fromkeys(ground.add(200), SHOWN))
    assert ground.cluster.requests == ["GET secrets"]
