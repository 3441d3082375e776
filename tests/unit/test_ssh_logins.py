"""SSH logins in the audit log: what the embedded router reports, and what is kept of it."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.background.login_recorder import LoginRecorder
from gateway.domain.ssh_logins import SOCKET, Datagram, Kind, LoginReport
from gateway.errors import DatabaseUnavailable, PipesUnavailable
from gateway.repositories.files.login_socket import LoginSocket
from gateway.router.reports import Reports
from gateway.services.ssh_logins import SshLogins
from tests.conftest import Bench
from tests.whole_gateway import eventually

LOGIN = LoginReport(Kind.ACCEPTED, 0.0, "user123", "203.0.113.7", "a-session")
REFUSAL = LoginReport(Kind.REFUSED, 0.0, "user123", "203.0.113.9", None, "no key fits")


@pytest.fixture
def logins(bench: Bench) -> SshLogins:
    return SshLogins(bench.database, bench.clock)


def recorded(bench: Bench, logins: SshLogins, *reports: LoginReport, lost: int = 0) -> list[tuple[str, ...]]:
    """The events after these reports: what, who, detail."""
    logins.record(logins.events(Datagram(reports, lost)))
    found = bench.client.get("/events?limit=1000").json["events"]
    assert {event["actor"] for event in found} <= {"router"}
    return [(event["what"], str(event["user_id"]), event["detail"]) for event in found]


def test_a_login_a_refusal_and_an_end_are_events(bench: Bench, logins: SshLogins) -> None:
    end = replace(LOGIN, kind=Kind.CLOSED, reason="by the client", seconds=185)
    assert recorded(bench, logins, LOGIN, REFUSAL, end) == [
        ("logged-in", "user123", "from 203.0.113.7"),
        ("denied", "user123", "SSH login from 203.0.113.9: no key fits"),
        ("logged-out", "user123", "from 203.0.113.7, after 3 minutes: by the client"),
    ]
    [first, *_] = bench.client.get("/events?user_id=user123").json["events"]
    assert first["session_id"] == "a-session"


def test_an_event_has_the_routers_time_unless_it_cannot_be_right(bench: Bench, logins: SshLogins) -> None:
    now = bench.clock.now
    before = now.timestamp() - 3600
    for at, expected in [(before, before), (now.timestamp() + 99, now.timestamp()), (0.0, now.timestamp())]:
        [event] = logins.events(Datagram([replace(LOGIN, at=at)]))
        assert event.at.timestamp() == pytest.approx(expected)
    [event] = logins.events(Datagram([replace(LOGIN, at=float("inf"))]))
    assert event.at == now


def test_a_name_that_is_no_user_id_is_only_in_the_detail(bench: Bench, logins: SshLogins) -> None:
    [(_, user, detail)] = recorded(bench, logins, replace(REFUSAL, user="../../etc"))
    assert (user, detail) == ("None", "SSH login as '../../etc' from 203.0.113.9: no key fits")


def test_a_client_that_names_no_user_is_no_event(bench: Bench, logins: SshLogins) -> None:
    assert recorded(bench, logins, replace(REFUSAL, user="")) == []


def test_refusals_are_limited_by_address_and_in_total(bench: Bench, logins: SshLogins) -> None:
    details = [detail for *_, detail in recorded(bench, logins, *[REFUSAL] * 50)]
    assert len(details) == 21
    assert details[-1].endswith("; further ones of this minute are not recorded")
    others = [replace(REFUSAL, address=f"198.51.100.{number}") for number in range(250)]
    assert len(recorded(bench, logins, *others)) <= 21 + 201
    bench.clock.advance(minutes=1)
    assert recorded(bench, logins, REFUSAL)[-1][2] == "SSH login from 203.0.113.9: no key fits"


def test_logins_of_one_user_are_limited_and_leave_others_theirs(bench: Bench, logins: SshLogins) -> None:
    assert len(recorded(bench, logins, *[LOGIN] * 100)) == 61
    assert recorded(bench, logins, replace(LOGIN, user="other"))[-1][1] == "other"


def test_what_the_router_had_to_drop_is_said(bench: Bench, logins: SshLogins) -> None:
    [(what, _, detail), _] = recorded(bench, logins, LOGIN, lost=7)
    assert (what, "dropped 7 reports" in detail) == ("problem", True)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"[]",
        b"{}",
        b'{"reports": 1, "lost": 0}',
        b'{"reports": [{}], "lost": 0}',
        b'{"reports": [1], "lost": 0}',
        b'{"reports": [], "lost": null}',
        b"[" * 100_000,
        b"\xff",
        json.dumps({"lost": 0, "reports": [{"kind": "other"}]}).encode(),
    ],
)
def test_a_datagram_of_something_else_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a datagram of the router"):
        Datagram.decode(data)


def test_texts_that_clients_choose_arrive_short_and_without_control_characters() -> None:
    sent = Datagram([replace(REFUSAL, user="\x1b[2J" + "x" * 999)], 3)
    received = Datagram.decode(sent.encode())
    assert received.lost == 3
    assert received.reports[0].user == "?[2J" + "x" * 196


def test_reports_arrive_in_their_order(tmp_path: Path) -> None:
    reports = Reports(tmp_path)
    with LoginSocket(tmp_path / "pipe.yaml").listening() as receive:
        for number in range(120):
            reports.add(Kind.ACCEPTED, {"user_id": f"user{number}", "address": "203.0.113.7"})
        reports.send(now=0)
        users = [report.user for _ in range(3) for report in (receive(5) or Datagram([])).reports]
        assert users == [f"user{number}" for number in range(120)]
        assert receive(0.01) is None


def test_while_no_gateway_listens_reports_are_kept_and_counted_beyond_a_bound(tmp_path: Path) -> None:
    reports = Reports(tmp_path / "missing")
    reports.add(Kind.ACCEPTED, {"user_id": "user123"})
    reports.send(now=0)
    reports = Reports(tmp_path)
    for number in range(2010):
        reports.add(Kind.ACCEPTED, {"user_id": f"user{number}"})
        reports.send(now=0)
    with LoginSocket(tmp_path / "pipe.yaml").listening() as receive:
        reports.send(now=1)
        first = receive(5)
        assert first is not None
        assert (first.lost, first.reports[0].user) == (10, "user10")


def test_a_router_continues_with_the_next_gateway(tmp_path: Path) -> None:
    reports = Reports(tmp_path)
    pipe_file = tmp_path / "pipe.yaml"
    with LoginSocket(pipe_file).listening():
        pass
    reports.add(Kind.ACCEPTED, {"user_id": "user123"})
    reports.send(now=0)
    with LoginSocket(pipe_file).listening() as first, LoginSocket(pipe_file).listening() as second:
        reports.send(now=1)
        assert second(5) is not None
        assert first(0.01) is None


def test_the_socket_is_the_pipe_files_owners(tmp_path: Path) -> None:
    pipe_file = tmp_path / "pipe.yaml"
    with LoginSocket(pipe_file).listening() as receive:
        found = (tmp_path / SOCKET).stat()
        assert found.st_mode & 0o777 == 0o600
        pipe_file.touch()
        receive(0.01)
        owner, found = pipe_file.stat(), (tmp_path / SOCKET).stat()
        assert (found.st_uid, found.st_gid) == (owner.st_uid, owner.st_gid)


def test_what_is_not_readable_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with LoginSocket(tmp_path / "pipe.yaml").listening() as receive:
        reports = Reports(tmp_path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.sendto(b"x", str(tmp_path / SOCKET))
        reports.add(Kind.ACCEPTED, {"user_id": "user123"})
        reports.send(now=0)
        assert receive(5) is None
        assert receive(5) is not None
    assert "not readable" in caplog.text


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PipesUnavailable, match=SOCKET), LoginSocket(tmp_path / "file/pipe.yaml").listening():
        pass


def test_a_socket_that_was_removed_is_made_again(bench: Bench, logins: SshLogins, tmp_path: Path) -> None:
    socket, reports = LoginSocket(tmp_path / "pipe.yaml"), Reports(tmp_path)
    with socket.listening() as receive:
        (tmp_path / SOCKET).unlink()
        with pytest.raises(PipesUnavailable, match="was removed"):
            receive(0.01)
    recorder = LoginRecorder(socket, logins)
    with recorder.working():
        eventually((tmp_path / SOCKET).exists)
        (tmp_path / SOCKET).unlink()
        eventually((tmp_path / SOCKET).exists)
        reports.add(Kind.ACCEPTED, {"user_id": "user123"})
        reports.send(now=0)
        eventually(lambda: len(bench.client.get("/events").json["events"]) == 1)


class FakeReports:
    """Yields these datagrams, and then none."""

    def __init__(self, *datagrams: Datagram) -> None:
        self.left = list(datagrams)

    @contextmanager
    def listening(self) -> Iterator["FakeReports"]:
        yield self

    def __call__(self, _seconds: float) -> Datagram | None:
        return self.left.pop(0) if self.left else None


def test_the_recorder_tries_again_until_the_database_answers(bench: Bench) -> None:
    class Failing(SshLogins):
        failures = 1

        def record(self, events: object) -> None:
            if self.failures:
                self.failures -= 1
                raise DatabaseUnavailable("The database does not answer.")
            super().record(events)  # type: ignore[arg-type]

    recorder = LoginRecorder(FakeReports(Datagram([LOGIN])), Failing(bench.database, bench.clock))
    with recorder.working():
        eventually(lambda: len(bench.client.get("/events").json["events"]) == 1)
