"""The contract of the notices in files, in memory and on a cluster, then what only the files have."""

import errno
import os
import stat
import threading
from base64 import b64decode
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.domain import ssh_keys
from gateway.domain.notice import Notice, NoticeState
from gateway.errors import DiskFull, PipesUnavailable, Unavailable
from gateway.repositories.files import notices as module
from gateway.repositories.files.lobby import Lobby, LobbyNotices
from gateway.repositories.files.notices import NoticeFiles
from gateway.repositories.files.pipes import Pipes
from gateway.repositories.kubernetes import lobby
from gateway.repositories.kubernetes.notices import ClusterNotices
from gateway.repositories.kubernetes.pipes import ClusterPipes, pipe_named
from tests.fakes.cluster import MemoryLocks
from tests.fakes.cluster_host import SITE
from tests.fakes.kubernetes import FakeKubernetes
from tests.fakes.notices import FakeNotices
from tests.fakes.pipe_parts import pipe

HOST_KEY = ssh_keys.make_pair().public
ENDED = Notice("s1", NoticeState.ENDED, (ssh_keys.make_pair().public,), "Your session ended.")


@pytest.fixture
def pipe_file(tmp_path: Path) -> Path:
    return tmp_path / "pipe.yaml"


@pytest.fixture
def fake() -> FakeKubernetes:
    return FakeKubernetes()


AnyNotices = NoticeFiles | LobbyNotices | FakeNotices | ClusterNotices | lobby.LobbyNotices


def lobby_notices(pipe_file: Path) -> LobbyNotices:
    host_key = pipe_file.with_name("ssh_host_ed25519_key.pub")
    host_key.write_text(HOST_KEY)
    made = Lobby("127.0.0.1", 2223, pipe_file.with_name("lobby_key"), [host_key])
    made.make_key()
    return LobbyNotices(NoticeFiles(pipe_file), Pipes(pipe_file, has_lobby=True), made)


def cluster_notices(fake: FakeKubernetes) -> ClusterNotices:
    return ClusterNotices(fake.api, "gpu-routes", MemoryLocks(), lambda: "d1")


def cluster_lobby(fake: FakeKubernetes) -> lobby.LobbyNotices:
    return lobby.LobbyNotices(cluster_notices(fake), lobby.Lobby(fake.api, "gpu-routes", "lobby.gw", 2222))


@pytest.fixture(params=["files", "lobby", "memory", "cluster", "lobby of a cluster"])
def notices(request: pytest.FixtureRequest, pipe_file: Path) -> AnyNotices:
    if request.param == "cluster":
        return cluster_notices(FakeKubernetes())
    if request.param == "lobby of a cluster":
        return cluster_lobby(FakeKubernetes())
    if request.param == "lobby":
        return lobby_notices(pipe_file)
    return NoticeFiles(pipe_file) if request.param == "files" else FakeNotices()


# The contract.


def test_there_are_no_notices_at_first(notices: AnyNotices) -> None:
    assert notices.all() == {}
    assert notices.get("user123") is None


def test_a_notice_is_written_replaced_and_removed(notices: AnyNotices) -> None:
    later = replace(ENDED, session_id="s2")
    notices.update("user123", lambda: ENDED)
    notices.update("john.doe", lambda: ENDED)
    notices.update("user123", lambda: later)
    assert notices.get("user123") == later
    assert notices.all() == {"user123": later, "john.doe": ENDED}
    notices.update("user123", lambda: None)
    notices.update("user123", lambda: None)
    assert notices.get("user123") is None
    assert notices.all() == {"john.doe": ENDED}


# The files.


def test_only_the_router_can_read_a_notice_and_only_the_gateway_can_replace_it(pipe_file: Path) -> None:
    pipe_file.write_text("")
    os.chown(pipe_file, 4711, 4712)
    NoticeFiles(pipe_file).update("user123", lambda: ENDED)
    found = (pipe_file.parent / "notices/user123").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (4711, 4712, 0o600)
    directory = (pipe_file.parent / "notices").stat()
    assert (directory.st_uid, stat.S_IMODE(directory.st_mode)) == (os.geteuid(), 0o711)


def test_the_names_of_drafts_and_locks_are_no_users(pipe_file: Path) -> None:
    NoticeFiles(pipe_file).update("user123", lambda: ENDED)
    directory = pipe_file.parent / "notices"
    (directory / ".user123.draft").write_text("of a killed process")
    assert NoticeFiles(pipe_file).users() == {"user123"}
    NoticeFiles(pipe_file).update("user123", lambda: ENDED)
    assert sorted(os.listdir(directory)) == [".lock", "user123"]


def test_a_damaged_notice_counts_as_none_and_is_replaced(pipe_file: Path) -> None:
    files = NoticeFiles(pipe_file)
    files.update("user123", lambda: ENDED)
    (pipe_file.parent / "notices/user123").write_text('{"state": ')
    assert files.get("user123") is None
    files.update("user123", lambda: ENDED)
    assert files.get("user123") == ENDED


def test_what_a_writer_read_is_still_true_when_it_writes(pipe_file: Path) -> None:
    truth, reading = ["first"], threading.Event()

    def slow() -> Notice:
        text = truth[-1]
        reading.set()
        threading.Event().wait(0.05)
        return replace(ENDED, text=text)

    writer = threading.Thread(target=NoticeFiles(pipe_file).update, args=("user123", slow))
    writer.start()
    reading.wait()
    truth.append("second")
    NoticeFiles(pipe_file).update("user123", lambda: replace(ENDED, text=truth[-1]))
    writer.join()
    found = NoticeFiles(pipe_file).get("user123")
    assert found is not None
    assert found.text == "second"


def test_a_full_disk_is_named_and_the_old_notice_stays(
    pipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = NoticeFiles(pipe_file)
    files.update("user123", lambda: ENDED)

    def full(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "replacing", full)
    with pytest.raises(DiskFull, match="disk with the pipe file"):
        files.update("user123", lambda: replace(ENDED, text="new"))
    assert files.get("user123") == ENDED


# The lobby.


def test_a_user_with_a_notice_gets_a_pipe_into_the_lobby(pipe_file: Path) -> None:
    notices, pipes = lobby_notices(pipe_file), Pipes(pipe_file, has_lobby=True)
    notices.update("user123", lambda: ENDED)
    assert pipes.list() == []
    found = pipes.lobby()["user123"]
    assert (found.username, found.public_keys) == ("user123", ENDED.public_keys)
    assert (found.host, found.port, found.host_key) == ("127.0.0.1", 2223, HOST_KEY)
    assert found.private_key == pipe_file.with_name("lobby_key").read_text()
    notices.update("user123", lambda: None)
    assert pipes.lobby() == {}


def test_a_session_s_pipe_takes_the_place_of_that_into_the_lobby(pipe_file: Path) -> None:
    notices, pipes = lobby_notices(pipe_file), Pipes(pipe_file, has_lobby=True)
    for user in ("user1", "user2"):
        notices.update(user, lambda: ENDED)
    pipes.add(pipe("s1", username="user1"))
    assert [each.session_id for each in pipes.list()] == ["s1"]
    assert pipes.lobby().keys() == {"user2"}
    notices.update("user1", lambda: ENDED)
    assert pipe_file.read_text().index('"s1"') < pipe_file.read_text().index("lobby.user1")
    pipes.replace(list)
    assert pipes.lobby().keys() == {"user1", "user2"}


def test_a_pipe_into_the_lobby_that_is_missing_or_wrong_counts_as_no_notice(pipe_file: Path) -> None:
    notices, pipes = lobby_notices(pipe_file), Pipes(pipe_file, has_lobby=True)
    notices.update("user123", lambda: ENDED)
    pipes.update_lobby("user123", lambda: None)
    assert notices.get("user123") is None
    assert notices.users() == {"user123"}
    notices.update("user123", lambda: ENDED)
    pipe_file.with_name("ssh_host_ed25519_key.pub").write_text(ssh_keys.make_pair().public)
    assert notices.get("user123") is None


def test_without_a_lobby_its_pipes_go(pipe_file: Path) -> None:
    lobby_notices(pipe_file).update("user123", lambda: ENDED)
    Pipes(pipe_file).replace(list)
    assert Pipes(pipe_file).lobby() == {}


def test_without_the_lobby_s_host_key_there_is_no_pipe(pipe_file: Path) -> None:
    notices = lobby_notices(pipe_file)
    pipe_file.with_name("ssh_host_ed25519_key.pub").unlink()
    with pytest.raises(Unavailable, match="start the lobby once"):
        notices.update("user123", lambda: ENDED)
    assert notices.users() == {"user123"}


def test_the_lobby_s_key_is_made_once_and_closed_to_others(pipe_file: Path) -> None:
    lobby_notices(pipe_file)
    key = pipe_file.with_name("lobby_key")
    first = key.read_text()
    lobby_notices(pipe_file)
    assert key.read_text() == first
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert ssh_keys.is_public_key(Path(f"{key}.pub").read_text().strip())


# The lobby of a cluster.


def test_on_a_cluster_a_notice_has_a_pipe_into_the_lobby(fake: FakeKubernetes) -> None:
    notices = cluster_lobby(fake)
    notices.update("user123", lambda: ENDED)
    [made], [keys] = fake.of("pipes"), fake.of("secrets")
    found = pipe_named(made, {"lobby": keys}, "lobby.user123")
    assert (found.username, found.public_keys) == ("user123", ENDED.public_keys)
    assert (found.host, found.port) == ("lobby.gw", 2222)
    assert found.host_key == text_of(keys, "ssh_host_ed25519_key.pub")
    assert found.private_key == text_of(keys, "ssh-privatekey")
    assert "ssh-publickey" not in keys["data"], "SSHPiper takes it for a certificate"
    notices.update("user123", lambda: None)
    assert fake.of("pipes") == []
    assert fake.of("secrets") == [keys], "the lobby's pod has mounted it"


def test_once_the_session_is_open_its_user_has_no_pipe_into_the_lobby(fake: FakeKubernetes) -> None:
    notices, ready = cluster_lobby(fake), replace(ENDED, state=NoticeState.OPEN)
    notices.update("user123", lambda: ENDED)
    notices.update("user123", lambda: ready)
    assert fake.of("pipes") == []
    assert notices.get("user123") == ready


def test_pipes_into_the_lobby_are_no_routes_of_sessions(fake: FakeKubernetes) -> None:
    cluster_lobby(fake).update("user123", lambda: ENDED)
    routes = ClusterPipes(fake.api, SITE, MemoryLocks(), lambda: "d1")
    assert routes.list() == []
    assert routes.routed_elsewhere(["user123"]) == set()
    routes.replace(list)
    assert len(fake.of("pipes")) == 1


@pytest.mark.parametrize("damage", [{"from": []}, {"to": {"host": "another:22"}}])
def test_a_pipe_of_a_cluster_into_the_lobby_that_is_wrong_counts_as_no_notice(
    fake: FakeKubernetes, damage: dict[str, object]
) -> None:
    notices = cluster_lobby(fake)
    notices.update("user123", lambda: ENDED)
    [made] = fake.names("pipes")
    fake.change("pipes", "gpu-routes", made, {"spec": damage})
    assert notices.all() == {"user123": None}
    assert notices.get("user123") is None
    notices.update("user123", lambda: ENDED)
    assert notices.all() == {"user123": ENDED}


def test_after_the_keys_of_the_lobby_were_deleted_its_pipes_get_the_new_ones(fake: FakeKubernetes) -> None:
    notices = cluster_lobby(fake)
    notices.update("user123", lambda: ENDED)
    fake.remove("secrets", "gpu-routes", "lobby")
    assert notices.all() == {"user123": None}
    notices.update("user123", lambda: ENDED)
    assert notices.all() == {"user123": ENDED}


def test_keys_of_the_lobby_that_are_damaged_are_named(fake: FakeKubernetes) -> None:
    notices = cluster_lobby(fake)
    notices.update("user123", lambda: ENDED)
    fake.change("secrets", "gpu-routes", "lobby", {"data": {"ssh-privatekey": None}})
    with pytest.raises(PipesUnavailable, match="The Secret lobby in gpu-routes is damaged: delete it"):
        notices.update("user123", lambda: ENDED)


def test_two_replicas_make_one_secret_for_the_lobby(
    fake: FakeKubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = fake.api
    first, second = (lobby.Lobby(each, "gpu-routes", "lobby.gw", 2222) for each in (fake.api, api))
    made = first.keys()
    answers = iter([None])  # the second one looked before the first one made it
    found = api.get
    monkeypatch.setattr(api, "get", lambda *key: next(answers, made) and found(*key))
    assert second.keys() == made


def text_of(secret: dict[str, Any], name: str) -> str:
    return b64decode(secret["data"][name]).decode()
