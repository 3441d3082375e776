"""Reads and changes what the gateway knows about a user: the group, and the address for mail."""

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.domain.audit import Action
from gateway.domain.clock import Clock
from gateway.domain.models import Event, User
from gateway.domain.policies import Policy
from gateway.errors import UserNotFound
from gateway.services.policies import Policies
from gateway.services.ports import Database
from gateway.services.uids import Uids


@dataclass(frozen=True, slots=True)
class UserOverview:
    """A user, the policy of the user, and the GPU-hours that count in this week."""

    user: User
    policy: Policy
    gpu_hours: float


@dataclass(frozen=True)
class Users:
    database: Database
    uids: Uids
    policies: Policies
    clock: Clock

    def get(self, user_id: str) -> User:
        """Raises `UserNotFound`."""
        with self.database.read() as rows:
            if not rows.has_user(user_id):
                raise UserNotFound(user_id)
            return rows.user(user_id)

    def list(self, after: str, limit: int) -> Sequence[UserOverview]:
        """Return the users by name, the first one after the name `after`."""
        with self.database.read() as rows:
            return [
                UserOverview(user, *self.policies.hours_of(rows, user.id, user.group))
                for user in rows.users(after, limit)
            ]

    def change(self, user_id: str, group: str | None, email: str | None) -> User:
        """Record exactly this group and this address, or none. A new user gets a uid."""
        free_uids = self.uids.free_for(user_id)
        with self.database.begin() as rows:
            user = rows.user(user_id, free_uids)
            if (user.group, user.email) != (group, email):
                user.group, user.email = group, email
                detail = f"group {group}" if group else "no group"
                self.policies.follow(rows)
                rows.record(Event.of(self.clock().wall, Action.USER_CHANGED, detail, user_id=user_id))
        return user
