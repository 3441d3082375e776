"""A login that waits: what it sends, and when it is over. The clock is the test's own."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import pytest

from gateway.domain.notice import Notice, NoticeState
from gateway.domain.ssh_keys import make_pair
from gateway.router.hold import HELD_SECONDS, Outcome, hold
from gateway.router.route import Route

KEY = make_pair().public
ROUTE = cast(Route, object())


def notice(text: str, state: NoticeState = NoticeState.WAITING) -> Notice:
    return Notice("id", state, (KEY,), text)


@dataclass
class Login:
    """`plan` maps a second to what happens then."""

    plan: dict[float, Callable[["Login"], None]]
    now: float = 0.0
    the_route: Route | None = None
    the_notice: Notice | None = field(default_factory=lambda: notice("1st"))
    sent: list[tuple[float, str]] = field(default_factory=list)

    def route(self) -> Route | None:
        return self.the_route

    def notice(self) -> Notice | None:
        return self.the_notice

    def show(self, notice: Notice) -> None:
        self.sent.append((self.now, notice.text))

    def heartbeat(self) -> None:
        self.sent.append((self.now, ""))

    def banners(self) -> list[tuple[float, str]]:
        return [(at, text) for at, text in self.sent if text]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[[Login], Outcome]:
    def run(login: Login) -> Outcome:
        async def sleep(seconds: float) -> None:
            login.now += seconds
            for at in [at for at in login.plan if at <= login.now]:
                login.plan.pop(at)(login)

        monkeypatch.setattr("gateway.router.hold.asyncio.sleep", sleep)
        return asyncio.run(hold(login, "no session", lambda: login.now))

    return run


def says(text: str, state: NoticeState = NoticeState.WAITING) -> Callable[[Login], None]:
    return lambda login: setattr(login, "the_notice", notice(text, state))


def opens(login: Login) -> None:
    login.the_route, login.the_notice = ROUTE, None


def opens_and_says_so(login: Login) -> None:
    login.the_route, login.the_notice = ROUTE, notice("ready", NoticeState.OPEN)


def ends(login: Login) -> None:
    login.the_notice = None


def test_the_login_goes_on_when_the_route_appears(run: Callable[[Login], Outcome]) -> None:
    login = Login({7.2: opens})
    assert run(login) == Outcome(ROUTE)
    assert login.now <= 8
    assert login.banners() == [(0, "1st")]


def test_a_login_that_goes_on_reads_that_the_session_is_ready(run: Callable[[Login], Outcome]) -> None:
    """Also within a minute of the last text, and not before the route is there."""
    login = Login({2.2: says("ready", NoticeState.OPEN), 7.2: opens_and_says_so})
    assert run(login) == Outcome(ROUTE)
    assert [text for _, text in login.banners()] == ["1st", "ready"]
    assert login.banners()[-1][0] >= 7


def test_something_is_sent_every_two_seconds(run: Callable[[Login], Outcome]) -> None:
    login = Login({600: opens})
    run(login)
    times = [at for at, _ in login.sent]
    assert max(late - early for early, late in zip(times, times[1:], strict=False)) <= 2.5
    assert len(login.banners()) == 1


def test_a_text_that_changes_often_is_shown_once_a_minute(run: Callable[[Login], Outcome]) -> None:
    changes = {float(second): says(f"place {second}") for second in range(3, 180, 3)}
    login = Login({**changes, 181.0: opens})
    run(login)
    banners = login.banners()
    assert len(banners) == 4
    assert all(late - early >= 60 for (early, _), (late, _) in zip(banners, banners[1:], strict=False))


def test_a_login_is_held_for_an_hour(run: Callable[[Login], Outcome]) -> None:
    login = Login({})
    outcome = run(login)
    assert "your place in line is kept" in outcome.refusal
    assert HELD_SECONDS <= login.now <= HELD_SECONDS + 3


def test_who_waits_no_more_reads_why(run: Callable[[Login], Outcome]) -> None:
    login = Login({10: says("nothing became free", NoticeState.ENDED)})
    assert run(login) == Outcome(refusal="no session")
    assert login.banners()[-1][1] == "nothing became free"


def test_a_notice_that_is_gone_ends_the_login(run: Callable[[Login], Outcome]) -> None:
    assert run(Login({10: ends})) == Outcome(refusal="no session")
