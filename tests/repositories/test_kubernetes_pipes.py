"""Routes as Pipe objects, and the pipe file that a router beside them reads."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.domain.notice import Notice, NoticeState
from gateway.domain.pipe import Pipe
from gateway.domain.ssh_keys import make_pair
from gateway.errors import PipesUnavailable
from gateway.repositories.files.notices import NoticeFiles
from gateway.repositories.files.pipes import Pipes
from gateway.repositories.kubernetes.mirror import Mirror
from gateway.repositories.kubernetes.notices import ClusterNotices
from gateway.repositories.kubernetes.pipes import ClusterPipes
from tests.fakes.cluster import MemoryLocks
from tests.fakes.cluster_host import SITE
from tests.fakes.kubernetes import FakeKubernetes
from tests.fakes.pipe_parts import pipe

ENDED = Notice("s1", NoticeState.ENDED, (make_pair().public,), "Your session ended.")


def routes(fake: FakeKubernetes, deployment: str = "d1") -> ClusterPipes:
    return ClusterPipes(fake.api, SITE, MemoryLocks(), lambda: deployment)


def handwritten(**source: Any) -> dict[str, Any]:
    metadata = {"name": "admin", "namespace": "gpu-routes"}
    return {"metadata": metadata, "spec": {"from": [source], "to": {"host": "192.0.2.1"}}}


def test_a_pipe_of_somebody_else_routes_its_users_elsewhere() -> None:
    fake = FakeKubernetes()
    fake.put("pipes", handwritten(username="admin"))
    assert routes(fake).routed_elsewhere(["admin", "ann"]) == {"admin"}
    fake.put("pipes", handwritten(username="^a", username_regex_match=True))
    assert routes(fake).routed_elsewhere(["admin", "ann", "bob"]) == {"admin", "ann"}
    fake.put("pipes", handwritten(username="(", username_regex_match=True))
    assert routes(fake).routed_elsewhere(["admin"]) == set()


def test_only_the_routes_of_this_database_are_replaced() -> None:
    fake = FakeKubernetes()
    fake.put("pipes", handwritten(username="admin"))
    other = routes(fake, "another")
    other.update(lambda: pipe("s9", "zoe"))
    mine = routes(fake)
    mine.update(lambda: pipe("s1"))
    mine.replace(list)
    assert mine.list() == []
    assert other.list() == [pipe("s9", "zoe")]
    assert fake.names("pipes") == ["admin", "s-s9"]


def test_a_damaged_pipe_is_reported_and_then_published_again() -> None:
    fake = FakeKubernetes()
    published = routes(fake)
    published.update(lambda: pipe("s1"))
    fake.change("pipes", "gpu-routes", "s-s1", {"spec": {"to": {"known_hosts_data": None}}})
    with pytest.raises(PipesUnavailable, match="The Pipe s-s1 is damaged"):
        published.list()
    published.replace(lambda: [pipe("s1")])
    assert published.list() == [pipe("s1")]


def test_what_has_not_changed_is_not_published_again() -> None:
    fake = FakeKubernetes()
    published = routes(fake)
    published.update(lambda: pipe("s1"))
    fake.requests.clear()
    published.replace(lambda: [pipe("s1")])
    assert not any(each.startswith(("POST", "PATCH", "DELETE")) for each in fake.requests)


def test_others_publish_while_all_routes_are_compared() -> None:
    fake = FakeKubernetes()
    published, reads = routes(fake), 0
    published.update(lambda: pipe("s1"))
    published.update(lambda: pipe("s3", "old"))

    def wanted() -> list[Pipe]:
        nonlocal reads
        reads += 1
        if reads == 1:
            published.update(lambda: pipe("s2", "bob"))
            return [pipe("s1")]
        return [pipe("s1"), pipe("s2", "bob")]

    published.replace(wanted)
    assert published.list() == [pipe("s1"), pipe("s2", "bob")]


def test_a_route_that_changes_while_all_are_compared_is_compared_again() -> None:
    fake = FakeKubernetes()
    published, versions = routes(fake), [[pipe("s1", "ann")], [pipe("s1", "bob")]]
    published.update(lambda: pipe("s1", "bob"))
    fake.requests.clear()
    published.replace(lambda: versions.pop(0))
    assert published.list() == [pipe("s1", "bob")]
    assert not any(each.startswith(("POST", "PATCH", "DELETE")) for each in fake.requests)


def test_the_secret_is_there_before_its_pipe_and_goes_after_it() -> None:
    fake = FakeKubernetes()
    published = routes(fake)
    published.update(lambda: pipe("s1"))
    published.remove("s1")
    changes = [each for each in fake.requests if not each.startswith("GET")]
    assert changes == ["POST secrets", "POST pipes", "DELETE pipes", "DELETE secrets"]


# The pipe file beside an embedded router.


class Running:
    """A mirror in a thread."""

    def __init__(self, fake: FakeKubernetes, path: Path) -> None:
        self.file, self.notices, self.stop = Pipes(path), NoticeFiles(path), threading.Event()
        mirror = Mirror(fake.api, SITE.routes, self.file, self.notices)
        self.thread = threading.Thread(target=mirror.run, args=(self.stop,), daemon=True)
        self.thread.start()

    def shows(self, *expected: Pipe) -> bool:
        return self.becomes(
            lambda: sorted(self.file.list(), key=lambda one: one.session_id) == list(expected)
        )

    def says(self, **expected: Notice) -> bool:
        return self.becomes(lambda: self.notices.all() == expected)

    def becomes(self, is_so: Callable[[], bool]) -> bool:
        """Wait for it, at most 20 s."""
        for _ in range(2000):
            if is_so():
                return True
            self.stop.wait(0.01)
        return False


def test_the_mirror_follows_the_routes(tmp_path: Path) -> None:
    fake = FakeKubernetes()
    published = routes(fake)
    published.update(lambda: pipe("s1"))
    mirror = Running(fake, tmp_path / "pipe.yaml")
    assert mirror.shows(pipe("s1"))
    published.update(lambda: pipe("s2", "bob"))
    assert mirror.shows(pipe("s1"), pipe("s2", "bob"))
    published.remove("s1")
    assert mirror.shows(pipe("s2", "bob"))
    mirror.stop.set()


def test_the_mirror_follows_the_notices(tmp_path: Path) -> None:
    fake = FakeKubernetes()
    published = ClusterNotices(fake.api, SITE.routes, MemoryLocks(), lambda: "d1")
    published.update("ann", lambda: ENDED)
    NoticeFiles(tmp_path / "pipe.yaml").update("old", lambda: ENDED)
    mirror = Running(fake, tmp_path / "pipe.yaml")
    assert mirror.says(ann=ENDED)
    later = replace(ENDED, session_id="s2")
    published.update("ann", lambda: later)
    published.update("bob", lambda: ENDED)
    assert mirror.says(ann=later, bob=ENDED)
    published.update("ann", lambda: None)
    assert mirror.says(bob=ENDED)
    mirror.stop.set()


def test_a_notice_for_a_name_that_is_no_user_is_left_out(tmp_path: Path) -> None:
    fake = FakeKubernetes()
    published = ClusterNotices(fake.api, SITE.routes, MemoryLocks(), lambda: "d1")
    published.update("../pipe.yaml", lambda: ENDED)
    published.update("ann", lambda: ENDED)
    mirror = Running(fake, tmp_path / "pipe.yaml")
    assert mirror.says(ann=ENDED)
    mirror.stop.set()


def test_the_mirror_keeps_the_file_while_kubernetes_is_away_and_follows_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.repositories.kubernetes.mirror._PAUSE_SECONDS", 0.01)
    fake = FakeKubernetes()
    published = routes(fake)
    published.update(lambda: pipe("s1"))
    mirror = Running(fake, tmp_path / "pipe.yaml")
    assert mirror.shows(pipe("s1"))
    fake.is_down = True
    while not any(each == "watch pipes" for each in fake.requests):
        mirror.stop.wait(0.01)
    assert mirror.file.list() == [pipe("s1")]
    fake.is_down = False
    published.remove("s1")
    assert mirror.shows()
    mirror.stop.set()


def test_the_mirror_leaves_out_a_route_that_would_let_anybody_in(tmp_path: Path) -> None:
    fake = FakeKubernetes()
    published = routes(fake)
    published.update(lambda: pipe("s1"))
    published.update(lambda: pipe("s2", "bob"))
    source = {"username": "user123"}
    fake.change("pipes", "gpu-routes", "s-s1", {"spec": {"from": [source]}})
    mirror = Running(fake, tmp_path / "pipe.yaml")
    assert mirror.shows(pipe("s2", "bob"))
    mirror.stop.set()
