"""Holds the login of a user who waits in line: its key is proved, and it succeeds when the session is open.

The client sees the place in line as banners, in whole lines. OpenSSH leaves a server that sends nothing for
ServerAliveInterval × ServerAliveCountMax, also before the login, so an empty packet goes out every two
seconds.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gateway.domain.notice import Notice, NoticeState
from gateway.router.route import Route

HELD_SECONDS = 3600.0
POLL_SECONDS, HEARTBEAT_SECONDS, BANNER_SECONDS = 0.5, 2.0, 60.0

TOO_LONG = "this login has waited for an hour; your place in line is kept: connect again"


class Held(Protocol):
    """What a hold needs of its login."""

    def route(self) -> Route | None:
        """The user's route as the pipe file is now."""

    def notice(self) -> Notice | None:
        """The notice as its file is now, if the proved key may read it."""

    def show(self, notice: Notice) -> None: ...
    def heartbeat(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """Why the hold is over: the user's route is there, or the login ends with `refusal`."""

    route: Route | None = None
    refusal: str = ""


async def hold(login: Held, no_session: str, clock: Callable[[], float] | None = None) -> Outcome:
    """Return when the user's route appears, the user waits no more, or an hour has passed."""
    now = clock or asyncio.get_running_loop().time
    ends, beat_at = now() + HELD_SECONDS, now()
    shown, show_at = "", now()
    while now() < ends:
        if route := login.route():
            return _ready(login, route)
        if now() >= beat_at:
            beat_at = now() + HEARTBEAT_SECONDS
            notice = login.notice()
            if notice is None or notice.state is NoticeState.ENDED:
                return _over(login, notice, no_session)
            is_news = notice.text != shown and notice.state is not NoticeState.OPEN
            if is_news and now() >= show_at:
                shown, show_at = notice.text, now() + BANNER_SECONDS
                login.show(notice)
            else:
                login.heartbeat()
        await asyncio.sleep(POLL_SECONDS)
    return Outcome(refusal=TOO_LONG)


def _ready(login: Held, route: Route) -> Outcome:
    notice = login.notice()
    if notice and notice.state is NoticeState.OPEN:
        login.show(notice)
    return Outcome(route)


def _over(login: Held, notice: Notice | None, no_session: str) -> Outcome:
    if route := login.route():  # the notice goes when the route comes
        return _ready(login, route)
    if notice:
        login.show(notice)
    return Outcome(refusal=no_session)
