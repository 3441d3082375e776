"""Measures workspaces if the file system does not enforce quotas.

The gateway warns a user who comes near the quota, and refuses a new session to a user above it. It does not
stop the writes of a running session.
"""

import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime

from gateway.domain import disk
from gateway.domain.audit import Action
from gateway.domain.clock import Clock
from gateway.domain.disk import Fill
from gateway.domain.models import Event, User
from gateway.errors import GatewayError, WorkspaceFull
from gateway.services.notices import Notices
from gateway.services.ports import Database, Host
from gateway.services.quota import WorkspaceQuota

log = logging.getLogger(__name__)


def require_room(user: User, quota: int | None) -> None:
    """Raise `WorkspaceFull` if the user was above `quota`, in bytes, at the last measurement."""
    used = user.workspace_bytes or 0
    if quota is not None and Fill.of(used, quota) is Fill.FULL:
        raise WorkspaceFull(user.id, disk.gib(used), disk.gib(quota))


@dataclass
class DiskUse:
    database: Database
    host: Host
    notices: Notices
    quota: WorkspaceQuota
    clock: Clock
    _surveyed: datetime = field(default=datetime.fromtimestamp(0, UTC), init=False)

    def survey(self) -> None:
        """Measure the workspaces of the users who had a session since the last survey, or who were above the
        quota."""
        if (quota := self.quota.watched()) is None:
            return
        began = self.clock().wall
        with self.database.read() as rows:
            users = rows.to_measure(since=self._surveyed, above=quota)
        for user_id in users:
            try:
                self._note(user_id, self.host.workspace_used(user_id), quota)
            except GatewayError as failure:
                named = {"user_id": user_id, "error": str(failure)}
                log.warning("a workspace is not measured", extra=named)
        self._surveyed = began

    def _note(self, user_id: str, used: int, quota: int) -> None:
        with self.database.begin() as rows:
            user, session = rows.user(user_id), rows.of_user(user_id)
            before, now = Fill.of(user.workspace_bytes or 0, quota), Fill.of(used, quota)
            user.workspace_bytes, detail = used, disk.describe(used, quota)
            if now > before:
                what = Action.DISK_FULL if now is Fill.FULL else Action.DISK_NEARLY_FULL
                rows.record(Event.of(self.clock().wall, what, detail, session=session, user_id=user_id))
        if now > before:
            log.warning("a workspace nears its quota", extra={"user_id": user_id, "use": detail})
        if session:
            self.notices.show(session.id)
