import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gateway.cli import gateway
from gateway.cli.table import Table, printable
from gateway.errors import GatewayError
from tests.conftest import Bench


def run(url: str, *arguments: str, **options: Any) -> Result:
    return CliRunner().invoke(gateway, ["events", "--url", url, *arguments], **options)


def create(bench: Bench, user_id: str) -> str:
    return str(bench.client.post("/sessions", json={"user_id": user_id}).json["session_id"])


def test_events_are_a_table_oldest_first_and_plain_in_a_pipe(bench: Bench, url: str) -> None:
    id = create(bench, "ann")
    bench.client.put("/gpus/0/cordon", json={"reason": "fan"})
    lines = run(url).stdout.splitlines()
    assert lines[0].split() == ["TIME", "(UTC)", "ACTOR", "WHAT", "USER", "SESSION", "DETAIL"]
    assert [line.split()[3] for line in lines[1:]] == ["created", "opened", "cordoned"]
    place = lines[0].index("SESSION")
    assert [line[place : place + 36].strip() for line in lines[1:]] == [id, id, "-"]
    assert "\x1b" not in run(url).stdout
    assert "\x1b[32m" in run(url, color=True).stdout


def test_one_sessions_events_are_shown_after_its_end(bench: Bench, url: str) -> None:
    id, _other = create(bench, "ann"), create(bench, "bob")
    bench.client.delete(f"/sessions/{id}")
    lines = run(url, id).stdout.splitlines()
    assert [line.split()[3] for line in lines[1:]] == ["created", "opened", "closing", "ended"]


def test_json_is_one_object_for_each_line(bench: Bench, url: str) -> None:
    create(bench, "ann")
    shown = [json.loads(line) for line in run(url, "--json").stdout.splitlines()]
    assert shown == bench.client.get("/events").json["events"]


def test_events_can_be_filtered(bench: Bench, url: str) -> None:
    create(bench, "ann")
    create(bench, "bob")
    lines = run(url, "--user", "bob", "--limit", "1").stdout.splitlines()
    assert len(lines) == 2
    assert " opened  bob " in lines[1]


def test_following_shows_each_new_event_once_until_interrupted(
    bench: Bench, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    naps: Iterator[Callable[[], object]] = iter([lambda: create(bench, "bob"), lambda: None])

    def nap(_seconds: float) -> None:
        happening = next(naps, None)
        if happening is None:
            raise KeyboardInterrupt
        happening()

    monkeypatch.setattr(time, "sleep", nap)
    create(bench, "ann")
    shown = run(url, "--follow", "--limit", "1")
    assert [line.split()[4] for line in shown.stdout.splitlines()[1:]] == ["ann", "bob", "bob"]
    assert shown.exit_code == 0


def test_an_unknown_session_is_reported_in_one_line(url: str) -> None:
    failed = run(url, "never")
    assert isinstance(failed.exception, GatewayError)
    assert "'never'" in str(failed.exception)


def test_a_session_id_cannot_be_combined_with_a_filter(url: str) -> None:
    assert "SESSION_ID shows all" in run(url, "abc", "--user", "ann").output


def test_columns_are_aligned_and_the_last_one_is_not_padded() -> None:
    lines = list(Table(["A", "B"]).lines([["long cell", "1"], ["x", ""]], [None, None]))
    assert [line.removeprefix("\x1b[1m").removesuffix("\x1b[0m") for line in lines] == [
        "A          B",
        "long cell  1",
        "x",
    ]


def test_output_of_containers_cannot_control_the_terminal() -> None:
    assert printable("\x1b[2Jtwo\nlines\x07") == "?[2Jtwo lines?"
