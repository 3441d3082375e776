"""Plans the waiting line in the transaction of a change, and records what the plan means for each row."""

from collections.abc import Sequence
from datetime import datetime

from gateway.domain.audit import Action
from gateway.domain.clock import Moment
from gateway.domain.forecast import Line
from gateway.domain.models import Event
from gateway.domain.waiting import Delay, Plan
from gateway.domain.waiting_request import WaitingRequest
from gateway.services.ports import Planner, Rows


def line_of(rows: Rows, now: Moment, besides: str | None = None) -> Line:
    """Return what a new session must respect: the requests in line, without the one with the id `besides`."""
    return Line(tuple(each.waiter(now) for each in rows.line() if each.id != besides), now)


def replan(rows: Rows, planner: Planner, now: Moment, overtaking: str | None = None) -> Plan:
    """Plan the line after a change in this transaction. Reservations go to the requests, limits of extensions
    to the sessions, and each promise that gets later to the audit log."""
    requests = rows.line()
    for request in requests:
        request.follow_wall_clock(now)
    waiters = [each.waiter(now) for each in requests]
    made = planner.plan_line(waiters, rows.slices(now), rows.cordons(), rows.demand(), now, overtaking)
    by_id = {request.id: request for request in requests}
    for delay in made.delays:
        rows.record(_delayed(by_id[delay.id], delay, now.wall))
    for request in requests:
        request.promise(made.reservations.get(request.id), now)
    _make_room(rows, made)
    return made


def _make_room(rows: Rows, made: Plan) -> None:
    """Limit the extensions of the sessions for which the plan differs from their rows."""
    limited, nothing = rows.limited(), (None, None)
    room = {id: (end, made.waited_for_by.get(id)) for id, end in made.latest_ends.items()}
    every = {*limited, *room}
    changed = [id for id in sorted(every) if room.get(id, nothing) != limited.get(id, nothing)]
    for row in rows.some(changed):
        row.make_room(*room.get(row.id, nothing))


def positions(requests: Sequence[WaitingRequest]) -> dict[str, int]:
    """The place of each request in line, by its id; the first one has 1."""
    return {request.id: place for place, request in enumerate(requests, start=1)}


def _delayed(request: WaitingRequest, delay: Delay, now: datetime) -> Event:
    until = f"to {delay.now:%Y-%m-%d %H:%M:%S} UTC" if delay.now else "to an unknown time"
    detail = f"{delay.cause}: from {delay.before:%Y-%m-%d %H:%M:%S} {until}"
    return Event.of(now, Action.PROMISE_DELAYED, detail, session_id=request.id, user_id=request.user_id)
