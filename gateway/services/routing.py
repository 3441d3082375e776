"""Publishes the SSH routes of live sessions, and disconnects the users of withdrawn keys."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.domain.pipe import Pipe
from gateway.domain.states import Status
from gateway.errors import GatewayError
from gateway.services.ports import Database, Host, Pipes

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Routing:
    """The routes follow the rows. A session has a route while it is active and has a public key. A session
    without keys has none, because SSHPiper accepts any client on a pipe without keys."""

    database: Database
    host: Host
    pipes: Pipes

    def admit(self, session_id: str) -> bool:
        """Publish one session's route. Return False if the session is no longer active."""
        is_active = False

        def wanted() -> Pipe | None:
            nonlocal is_active
            with self.database.read() as rows:
                session = rows.get(session_id)
                is_active = session is not None and session.status == Status.ACTIVE
                return session.pipe if session and is_active else None

        self.pipes.update(wanted)
        return is_active

    def publish(self) -> None:
        """Make the routes agree with the rows."""
        self.pipes.replace(self._wanted)

    def enforce(self, session_id: str) -> None:
        """Publish the session's present keys, then close the connections that a withdrawn key may have
        opened. The row records what is due, so the reconciler repeats a step that fails."""
        self.publish()
        self._disconnect(session_id)

    def settle(self) -> None:
        """Finish what `enforce` could not do, for every session. The routes come first, because a client that
        is disconnected would otherwise connect again."""
        self.publish()
        with self.database.read() as rows:
            due = rows.to_disconnect()
        for session_id in due:
            try:
                self._disconnect(session_id)
            except GatewayError as failure:
                details = {"session_id": session_id, "error": str(failure)}
                log.warning("disconnecting failed and is tried again", extra=details)

    def _disconnect(self, session_id: str) -> None:
        """Close all connections of the session. Its sshd sees only the router's key, so it cannot close those
        of one key. Programs in the session continue. The embedded router disconnects by itself, SSHPiper does
        not."""
        with self.database.read() as rows:
            session = rows.get(session_id)
        if session is None or not session.disconnect_due:
            return
        try:
            self.host.disconnect(session_id)
        except GatewayError:
            if self._has_ended(session_id):  # meanwhile, and all its connections with it
                return
            raise
        with self.database.begin() as rows:
            row = rows.get(session_id)
            if row and row.public_keys == session.public_keys:  # otherwise the keys changed again meanwhile
                row.disconnect_due = False
        log.info("a key was withdrawn, the connections are closed", extra={"session_id": session_id})

    def _has_ended(self, session_id: str) -> bool:
        with self.database.read() as rows:
            session = rows.get(session_id)
        return session is None or session.status == Status.CLOSING

    def _wanted(self) -> Sequence[Pipe]:
        """Read the rows while the pipe file is locked. Without the lock, a route that is published in between
        would be lost."""
        with self.database.read() as rows:
            return rows.pipes()
