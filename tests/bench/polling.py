"""What it costs the server that many browsers show a page, which asks for its changes again and again."""

import http.client
import os
import time
from collections.abc import Sequence
from itertools import cycle
from typing import TypeVar

from gateway.api.authorisation import SIGN_IN_COOKIE
from gateway.dashboard.rendering import TAG
from gateway.database_url import DatabaseUrl
from gateway.domain import clock
from gateway.domain.permissions import Role
from gateway.repositories.sql.database import SqlDatabase
from gateway.services.sign_ins import SignIns
from gateway.services.tokens import Tokens
from tests.bench.ground import BenchGateway, gateway
from tests.bench.measure import Row, progress
from tests.bench.serving import know, processes

T = TypeVar("T")

_TABS, _USERS = 100, 20
_SESSIONS = 28  # as many as the bench's GPUs have slices
_EVERY_SECONDS = 5.0  # as in templates/live.html
_WINDOW_SECONDS = 3 * _EVERY_SECONDS
_TICKS = os.sysconf("SC_CLK_TCK")


def polling(runs: int) -> list[Row]:
    """The processor time of the server beyond that of one without browsers, in percent of one core."""
    shares: dict[str, list[float]] = {"operators": [], "users": []}
    repetitions = max(1, runs // 5)
    with gateway(before=lambda ours: know(ours, _SESSIONS)) as ours:
        cookies = _signed_in(ours)
        callers = {"operators": cookies[:1], "users": cookies[1:]}
        for run in range(repetitions):
            idle = _seconds_used(ours, [])
            for who, shown in callers.items():
                used = _seconds_used(ours, [_Tab(ours.port, cookie) for cookie in _first(shown, _TABS)])
                shares[who].append(100 * (used - idle) / _WINDOW_SECONDS)
            progress("polling", run + 1, repetitions)
    note = (
        f"{_SESSIONS} sessions; the page Now every {_EVERY_SECONDS:g} s in each tab, with a cookie and a tag"
    )
    what = f"processor time of the server for {_TABS} tabs"
    return [
        Row("polling", f"{what} of operators", "", shares["operators"], unit="%", goal=5.0, note=note),
        Row("polling-users", f"{what} of {_USERS} users", "", shares["users"], unit="%", goal=5.0, note=note),
    ]


class _Tab:
    """A browser's tab: it keeps the tag of what it shows, and its connection as long as the server does."""

    def __init__(self, port: int, cookie: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self._headers = {
            "Cookie": f"{SIGN_IN_COOKIE}={cookie}",
            "HX-Request": "true",
            "Accept-Language": "en",
        }

    def poll(self) -> None:
        try:
            self._ask()
        except (http.client.RemoteDisconnected, ConnectionError):  # the server closed it after a pause
            self._connection.close()
            self._ask()

    def close(self) -> None:
        self._connection.close()

    def _ask(self) -> None:
        self._connection.request("GET", "/ui/", headers=self._headers)
        answer = self._connection.getresponse()
        answer.read()
        assert answer.status in (200, 304), answer.status
        if tag := answer.headers[TAG]:
            self._headers[TAG] = tag


def _seconds_used(ours: BenchGateway, tabs: Sequence[_Tab]) -> float:
    """The processor time of the server's processes in a window in which these tabs poll."""
    for tab in tabs:
        tab.poll()
    before, began = _processor_seconds(ours), time.monotonic()
    for number, tab in enumerate(_first(tabs, round(len(tabs) * _WINDOW_SECONDS / _EVERY_SECONDS))):
        time.sleep(max(0.0, began + number * _EVERY_SECONDS / len(tabs) - time.monotonic()))
        tab.poll()
    time.sleep(max(0.0, began + _WINDOW_SECONDS - time.monotonic()))
    used = _processor_seconds(ours) - before
    for tab in tabs:
        tab.close()
    return used


def _processor_seconds(ours: BenchGateway) -> float:
    total = 0
    for pid in processes(ours.processes["serve"].pid):
        with open(f"/proc/{pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])  # utime and stime
    return total / _TICKS


def _signed_in(ours: BenchGateway) -> list[str]:
    """The cookies of an operator and of the users."""
    database = SqlDatabase(DatabaseUrl(ours.database))
    tokens = Tokens(database, clock.read)
    sign_ins = SignIns(database, tokens, clock.read)
    made = [tokens.create("operator", Role.OPERATOR)]
    made += [tokens.create(f"user{number}", Role.USER, f"known{number}") for number in range(_USERS)]
    cookies = [sign_ins.sign_in(token) for token in made]
    database.engine.dispose()
    return cookies


def _first(items: Sequence[T], number: int) -> list[T]:
    """So many of the items, again from the first one after the last one."""
    return [item for item, _ in zip(cycle(items), range(number), strict=False)]
