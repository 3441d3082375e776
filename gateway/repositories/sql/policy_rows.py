"""The rows of the policies, and those that a quota counts."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import delete, orm, select

from gateway.domain.models import EndedSession, User
from gateway.domain.policies import Rules
from gateway.domain.records import PolicyRow


class PolicyRows:
    """A part of `SessionRows`."""

    _session: orm.Session

    def policies(self) -> Mapping[str, Rules]:
        """Return the rules of every policy, by its name."""
        rows = self._session.scalars(select(PolicyRow).order_by(PolicyRow.name))
        return {row.name: row.rules for row in rows}

    def set_policy(self, name: str, rules: Rules, now: datetime) -> None:
        row = self._session.get(PolicyRow, name)
        if row is None:
            self._session.add(PolicyRow(name=name, rules=dict(rules), changed_at=now))
        else:
            row.rules, row.changed_at = dict(rules), now
        self._session.flush()

    def remove_policy(self, name: str) -> None:
        self._session.execute(delete(PolicyRow).where(PolicyRow.name == name))

    def users(self, after: str, limit: int) -> Sequence[User]:
        """Return users by name, the first one after the name `after`."""
        named = select(User).where(User.id > after).order_by(User.id).limit(limit)
        return self._session.scalars(named).all()

    def ended_since(self, user_id: str, since: datetime) -> Sequence[EndedSession]:
        """Return the user's sessions that ended at `since` or later."""
        ended = select(EndedSession).where(EndedSession.user_id == user_id, EndedSession.ended_at >= since)
        return self._session.scalars(ended).all()
