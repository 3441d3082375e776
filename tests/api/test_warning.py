"""A session is warned before its end, and an administrator's message reaches it."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gateway.background.warner import Warner
from gateway.domain.permissions import Role
from gateway.errors import ContainerFailed, DockerUnavailable
from gateway.services.tokens import Tokens
from tests.conftest import Bench, BenchMaker
from tests.fakes.containers import FakeInside
from tests.fakes.gpus import FakeGpus


@pytest.fixture
def bench(bench_of: BenchMaker) -> Bench:
    return bench_of(FakeGpus(["A100-40GB"]), max_ttl_minutes=240)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as made:
        yield made


def create(bench: Bench, user_id: str = "user123", **body: Any) -> Any:
    answer = bench.client.post("/sessions", json={"user_id": user_id, **body})
    assert answer.status_code == 201, answer.json
    bench.containers.insides[user_id] = FakeInside(terminals=3, programs=2, has_hook=True)
    return answer.json


def inside(bench: Bench, user_id: str = "user123") -> FakeInside:
    return bench.containers.insides[user_id]


def events(bench: Bench, *kinds: str) -> list[str]:
    found = bench.client.get("/events").json["events"]
    return [event["detail"] for event in found if event["what"] in kinds]


def motd(bench: Bench, session: Any) -> str:
    path: Path = bench.settings.state_dir / "sessions" / session["session_id"] / "etc/motd"
    return path.read_text()


def extend(bench: Bench, session: Any) -> None:
    answer = bench.client.post(f"/sessions/{session['session_id']}/extend", json={"minutes": 60})
    assert answer.status_code == 200, answer.json


def test_every_terminal_is_told_how_much_time_is_left(bench: Bench) -> None:
    create(bench)
    bench.clock.advance(minutes=50)
    bench.warn()
    [text] = inside(bench).shown
    first, second = text.strip("\a\r\n").split("\r\n")
    assert first.startswith(" *** Your lease ends in 10 minutes, at ")
    assert first.endswith("Files in your home are kept, running programs are not.")
    assert "extended" in second
    assert text[0] == "\a"
    assert text.endswith("\r\n")
    assert text.replace("\r\n", "").replace("\a", "").isprintable()


def test_the_audit_log_has_a_receipt(bench: Bench) -> None:
    create(bench)
    for minutes, terminals in ((30, 3), (20, 1), (8, 0)):
        inside(bench).terminals = terminals
        bench.clock.advance(minutes=minutes)
        bench.warn()
    assert events(bench, "warned") == ["30 min, 3 terminals", "10 min, 1 terminal", "2 min, nobody connected"]


def test_a_level_is_given_once_also_by_another_process(bench: Bench, bench_of: BenchMaker) -> None:
    create(bench)
    bench.clock.advance(minutes=50)
    for _ in range(3):
        bench.warn()
    other = bench_of(FakeGpus(["A100-40GB"]), max_ttl_minutes=240)
    other.clock.now, other.clock.uptime = bench.clock.now, bench.clock.uptime
    assert other.warnings.due() == []
    assert len(inside(bench).shown) == 1


def test_an_extension_warns_again_before_the_new_end(bench: Bench) -> None:
    session = create(bench)
    bench.clock.advance(minutes=59)
    bench.warn()
    extend(bench, session)
    bench.warn()
    bench.clock.advance(minutes=31)
    bench.warn()
    assert events(bench, "warned") == ["2 min, 3 terminals", "30 min, 3 terminals"]


def test_an_extension_between_the_look_and_the_warning_calls_it_off(bench: Bench) -> None:
    session = create(bench)
    bench.clock.advance(minutes=59)
    due = bench.warnings.due()
    extend(bench, session)
    for warned, step in due:
        bench.warnings.do(warned, step)
    assert inside(bench) == FakeInside(terminals=3, programs=2, has_hook=True)
    assert events(bench, "warned", "before-end", "signalled") == []


def test_later_logins_see_that_the_end_is_near_until_an_extension(bench: Bench) -> None:
    session = create(bench)
    before = motd(bench, session)
    bench.clock.advance(minutes=50)
    bench.warn()
    assert "  Ends soon   " in motd(bench, session)
    extend(bench, session)
    assert "Ends soon" not in motd(bench, session)
    assert motd(bench, session).count("\n") == before.count("\n")


def test_the_users_own_program_runs_once_for_each_end(bench: Bench) -> None:
    session = create(bench)
    bench.clock.advance(minutes=55)
    for _ in range(3):
        bench.warn()
    assert inside(bench).hooks == {"3600": 300}
    extend(bench, session)
    bench.clock.advance(minutes=62)
    bench.warn()
    assert inside(bench).hooks == {"3600": 300, "7200": 180}
    assert events(bench, "before-end") == ["started", "started"]


def test_without_a_program_of_ones_own_nothing_is_recorded(bench: Bench) -> None:
    create(bench)
    inside(bench).has_hook = False
    bench.clock.advance(minutes=58)
    bench.warn()
    assert events(bench, "before-end") == []
    assert bench.warnings.due() == []


def test_programs_are_asked_to_end_before_the_end_which_comes_on_time(bench: Bench) -> None:
    create(bench)
    bench.clock.advance(minutes=59, seconds=29)
    bench.warn()
    assert inside(bench).signals == 0
    bench.clock.advance(seconds=1)
    bench.warn()
    assert inside(bench).signals == 1
    assert events(bench, "signalled") == ["SIGTERM to 2 processes"]
    bench.clock.advance(seconds=29)
    bench.gateway.reaper.reap()
    assert len(bench.client.get("/sessions").json["sessions"]) == 1
    bench.clock.advance(seconds=1)
    bench.gateway.reaper.reap()
    assert bench.client.get("/sessions").json["sessions"] == []


def wait_until_idle(warner: Warner, pool: ThreadPoolExecutor, now: float) -> None:
    warner.round(pool, now)
    deadline = time.monotonic() + 10
    while warner._jobs._running and time.monotonic() < deadline:
        time.sleep(0.001)
    assert not warner._jobs._running


def test_what_cannot_be_told_is_recorded_once_and_tried_each_minute(
    bench: Bench, pool: ThreadPoolExecutor
) -> None:
    create(bench)
    inside(bench).has_hook = False
    bench.clock.advance(minutes=50)
    warner = Warner(bench.warnings)
    bench.containers.fail("run_inside", ContainerFailed("The session has no process left."))
    for now in range(179):
        wait_until_idle(warner, pool, now)
    assert bench.containers.calls.count("run_inside") == 3
    assert events(bench, "warned") == ["10 min, could not be done: The session has no process left."]
    bench.containers.fail("run_inside", None)
    wait_until_idle(warner, pool, 179)
    assert events(bench, "warned")[1:] == []
    wait_until_idle(warner, pool, 181)
    assert events(bench, "warned")[1:] == ["10 min, 3 terminals"]


def test_what_docker_kept_from_being_told_is_on_record(bench: Bench, pool: ThreadPoolExecutor) -> None:
    create(bench)
    bench.containers.fail("run_inside", DockerUnavailable("Docker does not answer."))
    warner = Warner(bench.warnings)
    for second in range(600):
        bench.clock.advance(minutes=50 if not second else 0, seconds=bool(second))
        wait_until_idle(warner, pool, second)
    assert [detail.split(",")[0] for detail in events(bench, "warned")] == ["10 min", "2 min"]
    assert len(events(bench, "before-end")) == len(events(bench, "signalled")) == 1


def test_a_session_that_hangs_keeps_no_other_waiting(bench: Bench, pool: ThreadPoolExecutor) -> None:
    create(bench, "hanging")
    create(bench, "healthy")
    release = threading.Event()
    run = bench.containers.run_inside

    def hang(container_id: str, script: Any, *arguments: str) -> str:
        if container_id == "1".rjust(64, "0"):
            release.wait(10)
        return run(container_id, script, *arguments)

    bench.containers.run_inside = hang  # type: ignore[method-assign]
    bench.clock.advance(minutes=50)
    warner = Warner(bench.warnings)
    warner.round(pool, 0)
    deadline = time.monotonic() + 10
    while not inside(bench, "healthy").shown and time.monotonic() < deadline:
        warner.round(pool, 0)
    assert (len(inside(bench, "healthy").shown), inside(bench, "hanging").shown) == (1, [])
    bench.clock.advance(minutes=10)
    bench.gateway.reaper.reap()
    assert bench.client.get("/sessions").json["sessions"] == []
    release.set()


def send(bench: Bench, session: Any, text: str, **options: Any) -> Any:
    path = f"/sessions/{session['session_id']}/message"
    return bench.client.post(path, json={"text": text}, **options)


def test_a_message_is_on_every_terminal_and_at_later_logins(bench: Bench) -> None:
    session = create(bench)
    answer = send(bench, session, "The server is restarted at 18:00.")
    assert (answer.status_code, answer.json) == (200, {"terminals": 3})
    [text] = inside(bench).shown
    shown = " *** Message from your administrator: The server is restarted at 18:00."
    assert text == f"\a\r\n{shown}\r\n"
    assert "  Message     The server is restarted at 18:00.\n" in motd(bench, session)
    assert events(bench, "message") == ["3 terminals: The server is restarted at 18:00."]
    assert send(bench, session, "").status_code == 200
    assert "Message" not in motd(bench, session)
    assert len(inside(bench).shown) == 1


def test_notices_of_different_kinds_stand_side_by_side(bench_of: BenchMaker, mocker: Any) -> None:
    mocker.patch("gateway.repositories.files.quotas.are_enforced", return_value=False)
    bench = bench_of(FakeGpus(["A100-40GB"]), workspace_quota="10m")
    session = create(bench)
    (bench.settings.workspace_root / "user123/data/big").write_bytes(bytes(11 * 2**20))
    bench.disk_use.survey()
    send(bench, session, "hello")
    bench.clock.advance(minutes=50)
    bench.warn()
    labels = [line[2:14].strip() for line in motd(bench, session).splitlines()]
    assert [label for label in labels if label in ("Warning", "Ends soon", "Message")] == [
        "Warning",
        "Ends soon",
        "Message",
    ]
    bench.reconciler.reconcile()
    assert [line[2:14].strip() for line in motd(bench, session).splitlines()] == labels


@pytest.mark.parametrize("text", ["\x1b]0;title\x07\x1b[2J", "a\r\nb\tc", "\u202etxet", "\u009b31m"])
def test_a_message_steers_no_terminal(bench: Bench, text: str) -> None:
    session = create(bench)
    assert send(bench, session, text).status_code == 200
    [shown] = inside(bench).shown
    assert shown.strip("\a\r\n").isprintable()
    assert motd(bench, session).replace("\n", "").isprintable()
    assert json.dumps(events(bench, "message")[0]).count("\\u00") == 0


@pytest.mark.parametrize(
    "body",
    [{}, {"text": None}, {"text": 5}, {"text": "x" * 501}, {"text": "\ud800"}, {"text": "\x00"}, []],
)
def test_what_is_no_message_is_refused(bench: Bench, body: Any) -> None:
    session = create(bench)
    answer = bench.client.post(
        f"/sessions/{session['session_id']}/message",
        data=json.dumps(body),
        content_type="application/json",
    )
    assert answer.status_code == 422
    assert inside(bench).shown == []


def test_a_message_that_reaches_no_terminal_is_there_at_the_next_login(bench: Bench) -> None:
    session = create(bench)
    bench.containers.fail("run_inside", ContainerFailed("no process left"))
    answer = send(bench, session, "hello")
    assert (answer.status_code, answer.json) == (200, {"terminals": 0})
    assert "hello" in motd(bench, session)
    assert events(bench, "message") == ["no terminal: no process left: hello"]


def test_only_operators_send_messages(bench: Bench) -> None:
    session = create(bench)
    secret = Tokens(bench.database, bench.clock).create("user123", Role.USER, "user123")
    assert send(bench, session, "hi", headers={"Authorization": f"Bearer {secret}"}).status_code == 403


def test_warnings_messages_and_notices_are_in_the_language_of_the_setting(bench_of: BenchMaker) -> None:
    bench = bench_of(FakeGpus(["A100-40GB"]), language="ko", contact="ops@lab.example")
    session = create(bench)
    bench.clock.advance(minutes=30)
    bench.warn()
    bench.client.post(f"/sessions/{session['session_id']}/message", json={"text": "hello"})
    warning, message = inside(bench).shown
    assert "사용 시간이 30분 뒤" in warning
    assert "관리자의 메시지: hello" in message
    bench.client.delete(f"/sessions/{session['session_id']}", json={"note": "driver update"})
    again = create(bench)
    assert "관리자가 종료했습니다: driver update" in motd(bench, again)
