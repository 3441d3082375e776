"""Reports of SSH logins from a router's pod to the gateway, as ConfigMaps."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.background.login_recorder import LoginRecorder
from gateway.domain.ssh_logins import Datagram, Kind, LoginReport
from gateway.errors import KubernetesUnavailable
from gateway.repositories.files.login_socket import LoginSocket
from gateway.repositories.kubernetes.login_reports import REPORTS, ClusterReports, ReportSender
from gateway.router.reports import Reports
from gateway.services.ssh_logins import SshLogins
from tests.conftest import Bench
from tests.fakes.kubernetes import FakeKubernetes
from tests.whole_gateway import eventually

ROUTES = "gpu-routes"
LOGIN = LoginReport(Kind.ACCEPTED, 0.0, "user123", "203.0.113.7", "a-session")


def login(number: int) -> LoginReport:
    return replace(LOGIN, user=f"user{number}")


class Heard:
    """What the router says, one datagram after another; None is a silence. Some time after the last one it
    stops."""

    def __init__(self, *datagrams: Datagram | None) -> None:
        self._left = [*datagrams, None]
        self.stop = threading.Event()

    @contextmanager
    def listening(self) -> Iterator[Callable[[float], Datagram | None]]:
        yield self._next

    def _next(self, _seconds: float) -> Datagram | None:
        if not self._left:
            self.stop.set()
            return None
        return self._left.pop(0)


def send(fake: FakeKubernetes, *datagrams: Datagram | None, host: str = "router-1") -> None:
    heard = Heard(*datagrams)
    ReportSender(fake.api, ROUTES, host, heard).follow(heard.stop)


def taken(fake: FakeKubernetes) -> Sequence[Datagram]:
    """What the gateway receives until there is nothing more."""
    silences: list[float] = []
    with ClusterReports(fake.api, ROUTES, silences.append).listening() as receive:
        found = []
        while not silences:
            if datagram := receive(1):
                found.append(datagram)
    return found


def test_the_gateway_takes_what_the_routers_report_and_removes_it() -> None:
    fake = FakeKubernetes()
    send(fake, Datagram([login(1)]), None, Datagram([login(2)], lost=3), host="Router_1.example")
    send(fake, Datagram([login(3)]), host="router-2")
    assert fake.names("configmaps") == [
        "logins-router-1-example-0",
        "logins-router-1-example-1",
        "logins-router-2-0",
    ]
    assert taken(fake) == [Datagram([login(1)]), Datagram([login(2)], 3), Datagram([login(3)])]
    assert fake.names("configmaps") == []


def test_reports_stay_until_the_gateway_asks_for_the_next_ones() -> None:
    fake = FakeKubernetes()
    send(fake, Datagram([LOGIN]))
    with ClusterReports(fake.api, ROUTES).listening() as receive:
        assert receive(1) == Datagram([LOGIN])
    assert taken(fake) == [Datagram([LOGIN])]


def test_what_is_reported_at_about_the_same_time_is_one_object() -> None:
    fake = FakeKubernetes()
    send(fake, *[Datagram([login(number)], lost=1) for number in range(30)])
    assert taken(fake) == [Datagram([login(number) for number in range(30)], lost=30)]


def test_the_objects_of_one_router_are_limited_and_the_rest_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.repositories.kubernetes.login_reports._RETRY_SECONDS", 0.01)
    fake = FakeKubernetes()
    heard = Heard(*[each for number in range(25) for each in (Datagram([login(number)]), None)])
    sender = threading.Thread(target=ReportSender(fake.api, ROUTES, "r", heard).follow, args=(heard.stop,))
    sender.start()
    eventually(lambda: len(fake.names("configmaps")) == 20)
    found = list(taken(fake))
    while len(found) < 25:
        found += taken(fake)
    sender.join(10)
    assert sorted(each.reports[0].user for each in found) == sorted(login(n).user for n in range(25))


def test_reports_wait_while_kubernetes_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.repositories.kubernetes.login_reports._RETRY_SECONDS", 0.01)
    fake = FakeKubernetes(is_down=True)
    heard = Heard(Datagram([LOGIN]))
    sender = threading.Thread(target=ReportSender(fake.api, ROUTES, "r", heard).follow, args=(heard.stop,))
    sender.start()
    with ClusterReports(fake.api, ROUTES).listening() as receive, pytest.raises(KubernetesUnavailable):
        receive(1)
    fake.is_down = False
    sender.join(10)
    assert taken(fake) == [Datagram([LOGIN])]


def test_a_report_that_no_router_made_is_dropped() -> None:
    fake = FakeKubernetes()
    metadata = {"name": "logins-a", "namespace": ROUTES, "labels": dict(REPORTS)}
    fake.put("configmaps", {"metadata": metadata, "data": {"reports": "[]"}})
    send(fake, Datagram([LOGIN]))
    assert taken(fake) == [Datagram([LOGIN])]
    assert fake.names("configmaps") == []


def test_a_login_at_the_router_gets_into_the_audit_log(bench: Bench, tmp_path: Path) -> None:
    fake, stop, router = FakeKubernetes(), threading.Event(), Reports(tmp_path)
    sender = ReportSender(fake.api, ROUTES, "router-1", LoginSocket(tmp_path / "pipe.yaml"))
    thread = threading.Thread(target=sender.follow, args=(stop,), daemon=True)
    thread.start()
    eventually((tmp_path / "logins.sock").exists)
    router.add(Kind.ACCEPTED, {"user_id": "user123", "address": "203.0.113.7"})
    router.send(now=1)
    reports = ClusterReports(fake.api, ROUTES, lambda _: time.sleep(0.01))
    with LoginRecorder(reports, SshLogins(bench.database, bench.clock)).working():
        eventually(lambda: bench.client.get("/events").json["events"])
    stop.set()
    [event] = bench.client.get("/events").json["events"]
    assert (event["what"], event["user_id"], event["detail"]) == ("logged-in", "user123", "from 203.0.113.7")
