"""Reads the places where sessions exist. A place that cannot be read is reported, never treated as empty."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from gateway.doctor.differences import Difference, Snapshot, differences, foreign_instances
from gateway.domain.clock import Clock
from gateway.domain.mig import MigPolicy
from gateway.domain.models import Session
from gateway.domain.observation import Place
from gateway.errors import GatewayError
from gateway.repositories.files.pipes import Pipes
from gateway.services.ports import Database, Host

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


class Places:
    def __init__(self, database: Database, host: Host, pipes: Pipes, policy: MigPolicy, clock: Clock) -> None:
        self._database = database
        self._host = host
        self._pipes = pipes
        self._policy = policy
        self._clock = clock
        self._unseen: dict[Place, str] = {}

    def compare(self) -> Comparison:
        """Compare all places.

        The rows are read before and after the rest, so that changes by a running gateway do not count as
        differences. Without the rows there is nothing to compare with.
        """
        self._unseen = {}
        before = self._attempt(Place.DATABASE, self._rows)
        snapshot = self._snapshot(before or ())
        gpus = self._attempt(Place.DRIVER, self._host.list_gpus)
        survivors = self._attempt(Place.DOCKER, self._host.survivors) or ()
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
        return Snapshot(
            sessions=sessions,
            host=host,
            pipes=self._attempt(Place.PIPES, self._pipes.list),
            handwritten=self._attempt(Place.PIPES, lambda: self._pipes.routed_elsewhere(users)) or (),
        )

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
