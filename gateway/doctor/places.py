"""Reads the places where sessions exist. A place that cannot be read is reported, never treated as empty."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from gateway.doctor.differences import Difference, Snapshot, differences, foreign_instances
from gateway.domain.clock import Clock
from gateway.domain.mig import MigPolicy
from gateway.domain.models import Session
from gateway.domain.observation import Place
from gateway.errors import GatewayError
from gateway.services.ports import Database, Host, Pipes

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Comparison:
    """`sessions` is the number of live sessions, None if it is unknown.

    `others` are objects that the gateway did not create. `unseen` maps each place that could not be read to
    the reason.
    """

    sessions: int | None
    differences: Sequence[Difference]
    others: Sequence[Difference]
    unseen: Mapping[Place, str]


@dataclass(frozen=True, slots=True)
class Names:
    """What the places are called on one kind of host. Without `driver`, a driver of the host makes instances
    for others as well, so they are not compared."""

    runtime: Place
    routes: Place
    driver: Place | None = None


ON_A_SERVER = Names(Place.DOCKER, Place.PIPES, Place.DRIVER)
ON_A_CLUSTER = Names(Place.KUBERNETES, Place.ROUTES)


class Places:
    def __init__(
        self,
        database: Database,
        host: Host,
        pipes: Pipes,
        policy: MigPolicy,
        clock: Clock,
        names: Names = ON_A_SERVER,
    ) -> None:
        self._database = database
        self._host = host
        self._pipes = pipes
        self._policy = policy
        self._clock = clock
        self._names = names
        self._unseen: dict[Place, str] = {}

    def compare(self) -> Comparison:
        """Compare all places.

        The rows are read before and after the rest, so that changes by a running gateway do not count as
        differences. Without the rows there is nothing to compare with.
        """
        self._unseen = {}
        before = self._attempt(Place.DATABASE, self._rows)
        snapshot = self._snapshot(before or ())
        driver = self._names.driver
        gpus = self._attempt(driver, self._host.list_gpus) if driver else ()
        survivors = self._attempt(self._names.runtime, self._host.survivors) or ()
        after = self._attempt(Place.DATABASE, self._rows)
        if before is None or after is None:
            return Comparison(None, (), (), self._unseen)
        changed = _changed(before, after)
        differing = [one for one in differences(snapshot, self._clock()) if one.session_id not in changed]
        held = [session.allocation for session in (*before, *after)]
        held += [survivor.allocation for survivor in survivors]
        others = list(foreign_instances(gpus or (), held, self._policy))
        return Comparison(len(after), differing, others, self._unseen)

    def _snapshot(self, sessions: Sequence[Session]) -> Snapshot:
        users = [session.user_id for session in sessions]
        host = self._host.observe(sessions)
        self._unseen.update(host.unseen)
        without_row = set(host.pods) - {session.id for session in sessions}
        routes = self._names.routes
        return Snapshot(
            sessions=sessions,
            host=host,
            pipes=self._attempt(routes, self._pipes.list),
            handwritten=self._attempt(routes, lambda: self._pipes.routed_elsewhere(users)) or (),
            known=self._attempt(Place.DATABASE, lambda: self._known(without_row)) or (),
            routes=routes,
        )

    def _known(self, ids: Collection[str]) -> Collection[str]:
        with self._database.read() as rows:
            return rows.known(ids)

    def _rows(self) -> Sequence[Session]:
        with self._database.read() as rows:
            return rows.list()

    def _attempt(self, place: Place, read: Callable[[], T]) -> T | None:
        try:
            return read()
        except GatewayError as error:
            self._unseen[place] = str(error)
        except OSError as error:
            self._unseen[place] = f"{error.strerror}: {error.filename}" if error.filename else str(error)
        return None


def _changed(before: Sequence[Session], after: Sequence[Session]) -> set[str]:
    """Return the ids of sessions that were opened, closed or changed between the two reads."""
    first, second = ({session.id: _signature(session) for session in rows} for rows in (before, after))
    return {id for id in first.keys() | second.keys() if first.get(id) != second.get(id)}


def _signature(session: Session) -> tuple[object, ...]:
    return session.status, session.container_id, session.public_keys, session.disconnect_due, session.problem
