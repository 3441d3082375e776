"""Who is let into the live sessions: their routes as the rows want them, and what a withdrawn key opened."""

import logging
from collections.abc import Sequence

from gateway.domain import plan
from gateway.domain.models import Status
from gateway.domain.pipe import Pipe
from gateway.errors import GatewayError
from gateway.services.ports import Database, Host, Pipes

log = logging.getLogger(__name__)


class Routing:
    def __init__(self, database: Database, host: Host, pipes: Pipes) -> None:
        self._database = database
        self._host = host
        self._pipes = pipes

    def publish(self) -> None:
        """Make the routes what the rows say."""
        self._pipes.replace(self._wanted)

    def enforce(self, session_id: str) -> None:
        """Publish the session's keys as they are now, then cut what a withdrawn one may have opened.

        When it raises, the reaper tries again: what is to be done is in the row.
        """
        self.publish()
        self._cut(session_id)

    def settle(self) -> None:
        """What `enforce` left undone, for every session."""
        self.publish()  # first, or whoever is cut comes back
        with self._database.read() as rows:
            due = [session.id for session in rows.list() if session.disconnect_due]
        for session_id in due:
            try:
                self._cut(session_id)
            except GatewayError as failure:
                named = {"session_id": session_id, "error": str(failure)}
                log.warning("cutting its connections must be tried again", extra=named)

    def _cut(self, session_id: str) -> None:
        """All of the session's connections end, since its sshd knows the router's key alone and cannot tell
        whose they are; what runs in the session goes on. The embedded router cuts by itself too, SSHPiper
        never."""
        with self._database.read() as rows:
            session = rows.get(session_id)
        if session is None or not session.disconnect_due:
            return
        self._host.disconnect(session_id)
        with self._database.begin() as rows:
            row = rows.get(session_id)
            if row and row.public_keys == session.public_keys:  # else more was withdrawn meanwhile
                row.disconnect_due = False
        log.info("connections cut, a key was withdrawn", extra={"session_id": session_id})

    def _wanted(self) -> Sequence[Pipe]:
        """Read while the pipe file is locked, or one published in between would be lost. Pending sessions
        count: theirs is published before they are active. One without keys must have none: SSHPiper lets
        anybody in through a pipe without keys."""
        with self._database.read() as rows:
            sessions = [session for session in rows.list() if session.status != Status.CLOSING]
        return [plan.pipe(session) for session in sessions if session.public_keys]
