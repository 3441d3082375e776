"""What the attacks need of the site that runs the sessions: a server, or a cluster."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from gateway.database_url import DatabaseUrl
from gateway.doctor.attack.probe import Targets
from gateway.domain.models import Session
from gateway.errors import Unavailable
from gateway.repositories.sql.database import SqlDatabase

LiveSession = Mapping[str, Any]  # the response of `POST /sessions`


def record_of(db: DatabaseUrl, session: LiveSession) -> Session:
    """Return the row of an open session. Raises `Unavailable` if the database does not have it."""
    # Not a read-only engine: in this process it would keep SQLite from writing, which temporary tokens need.
    with SqlDatabase(db).read() as rows:
        found = rows.get(session["session_id"])
    if found is None or found.address is None:
        raise Unavailable("--db (GATEWAY_DB) is not the database of the gateway at --url: set both alike.")
    return found


class Ground(Protocol):
    """Raises `GatewayError`. `untried` says why attempts make no sense here, by the names of their
    functions."""

    untried: Mapping[str, str]

    def targets(self, victim: LiveSession, attacker: LiveSession) -> Targets: ...
    def run(self, session: LiveSession, command: Sequence[str]) -> tuple[int, str]:
        """Run a command in the session as its user. Return its exit code and standard output."""

    def log_size(self, session: LiveSession) -> int:
        """Return the size of the log that is kept of the session's main process, in bytes."""

    def processes(self, session: LiveSession) -> int:
        """Return how many processes the session has now, also after its end."""

    def remove_home(self, user_id: str) -> None:
        """Remove the workspace of a user of the doctor's, who has no session any more."""

    def remains(self, user_id: str) -> str:
        """Return what to do about the workspace if the doctor cannot end the user's session."""
