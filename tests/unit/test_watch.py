"""When a container's end makes the reaper look at once, and when it does not."""

import threading
from queue import SimpleQueue
from typing import Any

import pytest

from gateway.background.watch import Watch
from gateway.errors import DockerUnavailable
from tests.conftest import Bench


class Looks:
    """Counts them as they come."""

    def __init__(self) -> None:
        self._came: SimpleQueue[None] = SimpleQueue()

    def __call__(self) -> None:
        self._came.put(None)

    def wait(self) -> None:
        self._came.get(timeout=5)

    def more(self) -> bool:
        return not self._came.empty()


@pytest.fixture
def looks() -> Looks:
    return Looks()


@pytest.fixture
def watch(bench: Bench) -> Watch:
    return Watch(bench.database, bench.host, pause_seconds=0)


def create(bench: Bench, user_id: str) -> str:
    answer: Any = bench.client.post("/sessions", json={"user_id": user_id})
    return str(answer.json["session_id"])


def test_the_end_of_an_active_sessions_container_is_looked_at(
    bench: Bench, watch: Watch, looks: Looks
) -> None:
    session_id = create(bench, "ann")
    with watch.following(looks):
        looks.wait()
        bench.containers.end(session_id)
        looks.wait()
        bench.reconciler.reconcile()
    assert bench.client.get(f"/sessions/{session_id}").json["reason"] == "user_exit"
    assert not looks.more()


def test_containers_that_the_gateway_removes_are_no_news(bench: Bench, watch: Watch, looks: Looks) -> None:
    deleted, ended = create(bench, "ann"), create(bench, "bob")
    with watch.following(looks):
        looks.wait()
        bench.client.delete(f"/sessions/{deleted}")
        bench.containers.end(ended)
        looks.wait()
    assert not looks.more()


def test_a_connection_that_breaks_is_made_again_and_what_was_missed_looked_for(
    bench: Bench, watch: Watch, looks: Looks
) -> None:
    with watch.following(looks):
        looks.wait()
        bench.containers.fail("endings", DockerUnavailable("Docker is restarted."))
        bench.containers.break_connections()
        bench.containers.fail("endings", None)
        looks.wait()


def test_the_thread_ends_with_the_block(watch: Watch, looks: Looks) -> None:
    with watch.following(looks):
        looks.wait()
        assert "watch" in [thread.name for thread in threading.enumerate()]
    assert "watch" not in [thread.name for thread in threading.enumerate()]
    assert not looks.more()


def test_whoever_works_meanwhile_begins_after_the_first_look_was_asked_for(
    watch: Watch, looks: Looks
) -> None:
    with watch.following(looks):
        assert looks.more()
