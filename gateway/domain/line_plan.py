"""The waiting line: which slice each request was promised, and from when on. Pure.

Every request in line holds a reservation: a slice of one GPU, and when it begins. After each change, `plan`
takes the requests in their order (the higher priority first, then the older). It lifts the reservation of
each, and gives the request the earliest begin beside all leases *and all other reservations*. If none is
earlier, the request keeps what it has. So small requests fill gaps, no request starves, and **a promise never
gets later**, with three exceptions, which `Plan.delays` names: its GPU is lost or cordoned, a request
overtakes it by its priority, or a slice is not free in time. Those that are overtaken step back one behind
the other, in the order of the line.

Where nothing begins before the request gives up, it holds no reservation: it stays in line without a promise.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from gateway.domain.reservation_book import Book
from gateway.domain.timeline import OpenGpu
from gateway.domain.waiting import Cause, Delay, Lease, Plan, Reservation, Waiter


def plan(
    gpus: Sequence[OpenGpu],
    leases: Collection[Lease],
    waiters: Iterable[Waiter],
    now: datetime,
    demand: Mapping[str, float] | None = None,
    overtaking: str | None = None,
) -> Plan:
    """Plan the line. `gpus` are those on which sessions may begin; `overtaking` is the request that has just
    joined or whose priority has just been raised, for which those behind it in line step back."""
    line = sorted(waiters, key=lambda waiter: waiter.order)
    raised = next((waiter for waiter in line if waiter.id == overtaking), None)
    book = Book(gpus, leases, now, demand or {})
    book.plan(line, raised)
    reservations = _in_order(line, book.reservations)
    return Plan(
        reservations,
        tuple(each.id for each in line if _is_due(reservations.get(each.id), now)),
        tuple(_delays(line, reservations, {gpu.gpu.uuid for gpu in gpus}, raised)),
        *book.latest_ends(reservations),
    )


def spots(
    gpus: Sequence[OpenGpu],
    leases: Collection[Lease],
    waiters: Iterable[Waiter],
    profile: str,
    lease: timedelta,
    now: datetime,
) -> list[Reservation]:
    """Return the slices in which a session may begin now without delaying anybody in line."""
    book = Book(gpus, leases, now, {})
    book.restore(list(waiters), above=None)
    return [Reservation(gpu, gap.slice, now) for gpu, gap in book.free_now(profile, lease)]


def _is_due(reservation: Reservation | None, now: datetime) -> bool:
    return reservation is not None and reservation.start <= now


def _in_order(line: Sequence[Waiter], reservations: Mapping[str, Reservation]) -> Mapping[str, Reservation]:
    """Among requests for the same slice and lease, the first in line gets the first reservation, as far as
    the promises allow it."""
    ordered = dict(reservations)
    for equals in _equals(waiter for waiter in line if waiter.id in reservations):
        held = [reservations[each.id] for each in equals]
        slots = sorted(held, key=_start)
        if slots != held:
            for waiter in equals:
                del ordered[waiter.id]
            ordered.update(_shared_out(slots, equals, reservations))
    return {waiter.id: ordered[waiter.id] for waiter in line if waiter.id in ordered}


def _shared_out(
    slots: Sequence[Reservation], equals: Sequence[Waiter], reservations: Mapping[str, Reservation]
) -> Iterator[tuple[str, Reservation]]:
    """The last reservation goes to the last request that it does not delay. If a request behind that one
    was promised nothing so far, it goes without one rather than to overtake."""
    without = list(equals)
    for slot in reversed(slots):
        can_take = [slot.start <= _latest(each, reservations) for each in without]
        taker = len(without) - 1 - can_take[::-1].index(True)
        newcomers = [at for at in range(taker + 1, len(without)) if without[at].reservation is None]
        if newcomers:
            del without[newcomers[-1]]
        else:
            yield without.pop(taker).id, slot


def _latest(waiter: Waiter, reservations: Mapping[str, Reservation]) -> datetime:
    """When the request may begin at the latest: as it was promised, if the plan keeps that."""
    promised = waiter.reservation.start if waiter.reservation else waiter.until
    return max(promised, reservations[waiter.id].start)


def _equals(line: Iterable[Waiter]) -> list[list[Waiter]]:
    """The requests of the same priority that want the same slice for as long, in their order."""
    equals: dict[tuple[int, str, timedelta], list[Waiter]] = {}
    for waiter in line:
        equals.setdefault((waiter.priority, waiter.profile, waiter.lease), []).append(waiter)
    return [waiters for waiters in equals.values() if len(waiters) > 1]


def _start(reservation: Reservation) -> datetime:
    return reservation.start


def _is_delayed(waiter: Waiter, reservation: Reservation | None) -> bool:
    before = waiter.reservation
    return before is not None and (reservation is None or reservation.start > before.start)


def _delays(
    line: Sequence[Waiter],
    reservations: Mapping[str, Reservation],
    open_gpus: Collection[str],
    raised: Waiter | None,
) -> Iterator[Delay]:
    for waiter in line:
        before, after = waiter.reservation, reservations.get(waiter.id)
        if before and _is_delayed(waiter, after):
            if before.gpu not in open_gpus:
                cause = Cause.GPU_LOST
            else:
                cause = Cause.PRIORITY if waiter.is_overtaken_by(raised) else Cause.NOT_FREE
            yield Delay(waiter.id, before.start, after.start if after else None, cause)
