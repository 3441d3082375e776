"""The rows of the usage report."""

from collections.abc import Iterable, Sequence
from datetime import date

from sqlalchemy import orm, select

from gateway.domain.models import User
from gateway.domain.records import UsageRow
from gateway.domain.usage import Usage


class UsageRows:
    """A part of `SessionRows`."""

    _session: orm.Session

    def add_usage(self, usages: Iterable[Usage]) -> None:
        for usage in usages:
            key = (usage.day, usage.user_id, usage.group, usage.mig_profile)
            row = self._session.get(UsageRow, key)
            if row is None:
                self._session.add(_row(usage))
                self._session.flush()
            else:
                row.sessions += usage.sessions
                row.lease_seconds += usage.lease_seconds
                row.gpu_seconds += usage.gpu_seconds
                row.idle_seconds += usage.idle_seconds

    def usage(self, since: date, until: date, user_id: str | None = None) -> Sequence[Usage]:
        """Return the usage of ended sessions on these days, both included; with `user_id`, of one user."""
        found = select(UsageRow).where(UsageRow.day >= since, UsageRow.day <= until)
        if user_id is not None:
            found = found.where(UsageRow.user_id == user_id)
        return [_usage(row) for row in self._session.scalars(found)]

    def group_of(self, user_id: str) -> str | None:
        return self._session.scalar(select(User.group).where(User.id == user_id))

    def groups(self) -> dict[str, str]:
        """Return the group of each user who has one."""
        named = select(User.id, User.group).where(User.group.is_not(None))
        return {user_id: str(group) for user_id, group in self._session.execute(named)}


def _row(usage: Usage) -> UsageRow:
    return UsageRow(
        day=usage.day,
        user_id=usage.user_id,
        user_group=usage.group,
        mig_profile=usage.mig_profile,
        sessions=usage.sessions,
        lease_seconds=usage.lease_seconds,
        gpu_seconds=usage.gpu_seconds,
        idle_seconds=usage.idle_seconds,
    )


def _usage(row: UsageRow) -> Usage:
    return Usage(
        row.day,
        row.user_id,
        row.user_group,
        row.mig_profile,
        row.sessions,
        row.lease_seconds,
        row.gpu_seconds,
        row.idle_seconds,
    )
