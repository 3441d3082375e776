"""How much users' workspaces hold, and what follows of it where the file system itself sets no limits.

There they are measured, which takes a while: whoever comes near the quota is told, and whoever is above it
gets no new session. What a session writes before it is measured is not stopped.
"""

import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum

from gateway.domain.audit import Action
from gateway.domain.clock import Clock
from gateway.domain.models import Event, User
from gateway.errors import GatewayError, WorkspaceFull
from gateway.services.ports import Database, Host

log = logging.getLogger(__name__)

_NEARLY = 0.9
_GIB = 2**30


class Fill(IntEnum):
    """Of a quota."""

    ROOM = 0
    NEARLY = 1
    FULL = 2

    @classmethod
    def of(cls, used: int, quota: int) -> "Fill":
        """Both in bytes."""
        return cls.FULL if used >= quota else cls.NEARLY if used >= _NEARLY * quota else cls.ROOM


def require_room(user: User, quota: int | None) -> None:
    """Raises `WorkspaceFull` for one who was above the quota when last measured."""
    used = user.workspace_bytes or 0
    if quota is not None and Fill.of(used, quota) is Fill.FULL:
        raise WorkspaceFull(user.id, _gib(used), _gib(quota))


@dataclass
class DiskUse:
    """`quota` is what each workspace may hold, in bytes; None: no limit."""

    database: Database
    host: Host
    quota: int | None
    clock: Clock
    _surveyed: datetime = field(default=datetime.fromtimestamp(0, UTC), init=False)

    def describe(self) -> str:
        """Which kind of quota is in force."""
        if self.quota is None:
            return "ok: no quota"
        size = _gib(self.quota)
        if self.host.has_quotas():
            return f"ok: at most {size} each, kept by the file system"
        return (
            f"ok: at most {size} each, watched, for the file system has no user quotas in force: "
            "who is above it gets no new session"
        )

    def survey(self) -> None:
        """Measure the workspaces of those who had a session since the last survey, or were above the
        quota."""
        if (quota := self.watched_quota()) is None:
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

    def watched_quota(self) -> int | None:
        """The quota, where nobody but the gateway looks after it."""
        return None if self.quota is None or self.host.has_quotas() else self.quota

    def _note(self, user_id: str, used: int, quota: int) -> None:
        with self.database.begin() as rows:
            user, session = rows.user(user_id), rows.of_user(user_id)
            before, now = Fill.of(user.workspace_bytes or 0, quota), Fill.of(used, quota)
            user.workspace_bytes = used
            told = f"{_gib(used)} of {_gib(quota)} are used"
            if now > before:
                what = Action.DISK_FULL if now is Fill.FULL else Action.DISK_NEARLY_FULL
                event = Event.of(self.clock().wall, what, told, session=session, user_id=user_id)
                rows.record(event)
        if now > before:
            log.warning("a workspace nears its quota", extra={"user_id": user_id, "told": told})
        if session:
            self.host.tell(session.id, _warning(told) if now else "")


def _warning(told: str) -> str:
    return f"{told}; above that there is no next session: remove what you can do without"


def _gib(size: int) -> str:
    return f"{size / _GIB:.1f} GiB"
