"""Makes a new or restored database agree with the sessions and workspaces on the host, before it is used."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from gateway.domain.audit import Action
from gateway.domain.clock import Clock
from gateway.domain.lease import MINUTE
from gateway.domain.models import Event, Session
from gateway.domain.pipe import Pipe
from gateway.domain.recovery import ON_A_SERVER, Remedies, Survivor, foreign_sessions, row_of
from gateway.domain.states import Reason
from gateway.errors import GatewayError, StartRefused
from gateway.services.ports import Database, Host, Pipes, Rows
from gateway.services.usage import UsageLog

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Recovered:
    """The result of `Recovery.recover`.

    `owners` are the users who got the uid of their workspace. `conflicts` describe the workspaces that belong
    to the uid of another user. The other fields name the users of sessions: `adopted` have their row again,
    `lost` run without a row and end soon, `ended` had a row and no container.
    """

    owners: Sequence[str]
    conflicts: Sequence[str]
    adopted: Sequence[str]
    lost: Sequence[str]
    ended: Sequence[str]


@dataclass(frozen=True)
class Recovery:
    database: Database
    host: Host
    pipes: Pipes
    clock: Clock
    usage: UsageLog
    remedies: Remedies = ON_A_SERVER

    def require_own_sessions(self) -> None:
        """Raise `StartRefused` if the host runs sessions of another database. With this database they would
        lose their routes."""
        with self.database.read() as rows:
            deployment = rows.deployment_id()
        try:
            survivors = self.host.survivors(besides=deployment)
        except GatewayError as error:
            log.warning("the sessions on the host could not be compared", extra={"error": str(error)})
            return
        with self.database.read() as rows:
            known = rows.known([survivor.session_id for survivor in survivors])
        foreign = foreign_sessions(survivors, known)
        if foreign:
            users = ", ".join(sorted({survivor.user_id for survivor in foreign})[:5])
            raise StartRefused(
                f"The host runs {len(foreign)} sessions (of {users}) that this database does not know: they "
                f"belong to another one. Name that database with --db, put a backup back with "
                f"{self.remedies.restore}, use another {self.remedies.separate}, or end them with "
                f"{self.remedies.end}."
            )

    def require_nothing(self) -> None:
        """Raise `StartRefused` if the host has sessions or workspaces although the database is new."""
        existing = []
        try:
            if survivors := self.host.survivors():
                existing.append(f"{len(survivors)} session containers")
        except GatewayError as error:
            log.warning("the sessions on the host could not be listed", extra={"error": str(error)})
        if owners := self.host.workspace_owners():
            existing.append(f"the workspaces of {len(owners)} users")
        if existing:
            raise StartRefused(
                f"The database does not exist, but {' and '.join(existing)} do: correct --db (GATEWAY_DB) or "
                f"mount its disk, put a backup back with {self.remedies.restore}, or begin with an empty "
                "database by `gateway migrate --new`."
            )

    def recover(self) -> Recovered:
        """Take the users' uids from their workspaces, and add the rows of running sessions again."""
        owners, conflicts = self._adopt_owners(self.host.workspace_owners())
        survivors = self.host.survivors()
        ended = self._end_vanished({survivor.session_id for survivor in survivors})
        adopted, lost = self._adopt_sessions(survivors, self.pipes.list())
        return Recovered(owners, conflicts, adopted, lost, ended)

    def _adopt_owners(self, workspace_owners: Mapping[str, int]) -> tuple[list[str], list[str]]:
        """The owner of a workspace decides its user's uid. With a wrong uid a user could not read the
        workspace, or could read another user's."""
        owners, conflicts = [], []
        with self.database.begin() as rows:
            uids = dict(rows.uids())
            for user_id, uid in sorted(workspace_owners.items()):
                holder = next((other for other, other_uid in uids.items() if other_uid == uid), None)
                if holder == user_id:
                    continue
                if holder is not None:
                    conflicts.append(f"{user_id}'s workspace belongs to uid {uid}, which is {holder}'s")
                    continue
                rows.assign_uid(user_id, uid)
                uids[user_id] = uid
                owners.append(user_id)
        return owners, conflicts

    def _end_vanished(self, running: Collection[str]) -> list[str]:
        """End the rows of sessions that ended after the backup. Their slices may belong to others now, so
        only the rows are removed."""
        with self.database.begin() as rows:
            vanished = [session for session in rows.list() if session.id not in running]
            for session in vanished:
                session.close(Reason.RESTARTED)
                self.usage.end(rows, session, self.clock().wall)
                detail = "ended while an older database was put back"
                rows.record(Event.of(self.clock().wall, Action.ENDED, detail, session=session))
        return [session.user_id for session in vanished]

    def _adopt_sessions(
        self, survivors: Sequence[Survivor], published: Sequence[Pipe]
    ) -> tuple[list[str], list[str]]:
        pipes = {pipe.session_id: pipe for pipe in published}
        adopted, lost = [], []
        with self.database.begin() as rows:
            for survivor in survivors:
                if known := rows.get(survivor.session_id):
                    _extend(known, survivor)
                    continue
                session = row_of(survivor, pipes.get(survivor.session_id), self.clock())
                if session is None or not _may_adopt(rows, survivor):
                    lost.append(survivor.user_id)
                    self._give_up(rows, survivor)
                    continue
                rows.add(session)
                detail = "found running while an older database was put back"
                rows.record(Event.of(self.clock().wall, Action.OPENED, detail, session=session))
                adopted.append(session.user_id)
        return adopted, lost

    def _give_up(self, rows: Rows, survivor: Survivor) -> None:
        """Record that the session ends, so that the reconciler removes what it finds of it."""
        if not rows.known([survivor.session_id]):
            rows.add_ended(survivor.given_up(self.clock().wall))


def _extend(session: Session, survivor: Survivor) -> None:
    """Repeat an extension that was made after the backup."""
    by = (survivor.expires_at - session.expires_at) // MINUTE * MINUTE
    if by > timedelta():
        session.extend(by)


def _may_adopt(rows: Rows, survivor: Survivor) -> bool:
    """Whether the user has no other live session, and has the uid that the session runs as."""
    if rows.of_user(survivor.user_id):
        return False
    uid = rows.uids().get(survivor.user_id)
    if uid is None and survivor.uid is not None and survivor.uid not in rows.uids().values():
        rows.assign_uid(survivor.user_id, survivor.uid)
        return True
    return uid is not None and uid == survivor.uid
