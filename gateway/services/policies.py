"""Reads and changes policies, and checks requests against them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from gateway.domain import policies
from gateway.domain.audit import Action
from gateway.domain.clock import Clock
from gateway.domain.lease import MINUTE
from gateway.domain.models import Event, Session, User
from gateway.domain.plan import SessionPlan
from gateway.domain.policies import Held, Policy, Rules
from gateway.domain.usage import share_held, share_of
from gateway.errors import InvalidRequest, PolicyNotFound
from gateway.services.ports import Database, Rows


@dataclass(frozen=True, slots=True)
class Terms:
    """A user's policy, for one request. `is_override`: an operator goes beyond it."""

    policy: Policy
    is_override: bool

    def ttl(self, wanted: timedelta | None, longest: timedelta) -> timedelta:
        """As `Policy.ttl`."""
        policy = _without_limits(self.policy) if self.is_override and wanted is not None else self.policy
        return policy.ttl(wanted, longest)

    def profile(self, wanted: str | None) -> str | None:
        """As `Policy.profile`."""
        return wanted if self.is_override else self.policy.profile(wanted)

    def image(self, wanted: str | None) -> str | None:
        """As `Policy.image`."""
        return wanted if self.is_override else self.policy.image(wanted)

    def require_wait(self, wanted: timedelta) -> None:
        """As `Policy.require_wait`."""
        if not self.is_override:
            self.policy.require_wait(wanted)

    @property
    def priority(self) -> int:
        return self.policy.priority()

    @property
    def max_lease_minutes(self) -> int | None:
        return self.policy.longest_lease()


@dataclass(frozen=True)
class Policies:
    database: Database
    clock: Clock

    def all(self) -> Mapping[str, Rules]:
        with self.database.read() as rows:
            return rows.policies()

    def get(self, name: str) -> Rules:
        """Raises `PolicyNotFound`."""
        found = self.all()
        if name not in found:
            raise PolicyNotFound(name)
        return found[name]

    def set(self, name: str, rules: Rules) -> Rules:
        """Make these the rules of the policy, and of live sessions. Raises `InvalidRequest`."""
        if problem := policies.problem_with_name(name):
            raise InvalidRequest(
                f"{name[:100]!r} cannot be the name of a policy. {problem}", {"name": [problem]}
            )
        given = {rule: value for rule, value in rules.items() if value is not None}
        with self.database.begin() as rows:
            if rows.policies().get(name) != given:
                rows.set_policy(name, given, self.clock().wall)
                listed = ", ".join(f"{rule} {value}" for rule, value in given.items()) or "no rules"
                rows.record(Event.of(self.clock().wall, Action.POLICY_CHANGED, f"{name}: {listed}"))
                self.follow(rows)
        return given

    def remove(self, name: str) -> None:
        """Raises `PolicyNotFound`."""
        with self.database.begin() as rows:
            if name not in rows.policies():
                raise PolicyNotFound(name)
            rows.remove_policy(name)
            rows.record(Event.of(self.clock().wall, Action.POLICY_REMOVED, name))
            self.follow(rows)

    def of_user(self, user_id: str) -> tuple[Policy, float]:
        """Return the user's policy, and the GPU-hours that count in this week."""
        with self.database.read() as rows:
            return self.hours_of(rows, user_id, rows.group_of(user_id))

    def hours_of(self, rows: Rows, user_id: str, group: str | None) -> tuple[Policy, float]:
        """As `of_user`, in a transaction, for a user of this group."""
        now = self.clock().wall
        return _policy(rows, user_id, group), policies.used_hours(_held(rows, user_id, now), now)

    def default_lease(self, user_id: str | None, longest: timedelta) -> timedelta:
        """Return the lease of a session without a `ttl_minutes`; `user_id` None: by the policy for all."""
        with self.database.read() as rows:
            group = rows.group_of(user_id) if user_id else None
            return _policy(rows, user_id or "", group).ttl(None, longest)

    def image_for(self, user_id: str, wanted: str | None, is_override: bool) -> str | None:
        """As `Terms.image`, for a user who need not be known yet. The transaction that opens the session
        checks the terms again."""
        with self.database.read() as rows:
            policy = _policy(rows, user_id, rows.group_of(user_id))
        return Terms(policy, is_override).image(wanted)

    def terms(self, rows: Rows, user: User, is_override: bool) -> Terms:
        """Return the terms for a new session. Raises `PolicyRefused` if the user may start none."""
        policy = _policy(rows, user.id, user.group)
        if not is_override:
            policy.require_start()
        return Terms(policy, is_override)

    def require_hours(self, rows: Rows, terms: Terms, plan: SessionPlan) -> None:
        """Raise `PolicyRefused` if the planned lease does not fit into the user's week."""
        request, now = plan.request, plan.request.created_at
        if not terms.is_override:
            share = share_held(plan.mig_profile, plan.gpu_share)
            wanted = Held(now, request.expires_at, share)
            terms.policy.require_hours(_held(rows, request.user_id, now), wanted, now)

    def require_hours_for(
        self, rows: Rows, terms: Terms, user_id: str, mig_profile: str, lease: timedelta
    ) -> None:
        """As `require_hours`, for a request that waits: as if its lease began now."""
        now = self.clock().wall
        if not terms.is_override:
            wanted = Held(now, now + lease, share_of(mig_profile))
            terms.policy.require_hours(_held(rows, user_id, now), wanted, now)

    def extension(self, rows: Rows, session: Session, by: timedelta, or_less: bool) -> timedelta:
        """Return how much longer the lease becomes: `by`, or with `or_less` what fits into the user's week of
        it, in whole minutes. Raises `PolicyRefused` if it does not fit, or not a minute of it."""
        now = self.clock().wall
        policy = _policy(rows, session.user_id, rows.group_of(session.user_id))
        share = share_held(session.mig_profile, session.gpu_share)
        others = policies.held_by(rows.ended_since(session.user_id, now - policies.WEEK), None, now)
        wanted = Held(session.opened_at or session.created_at, session.expires_at + by, share)
        fitting = policy.within_hours(others, wanted, now).until - session.expires_at
        if or_less and fitting >= MINUTE:
            return fitting // MINUTE * MINUTE
        policy.require_hours(others, wanted, now)
        return by

    def follow(self, rows: Rows) -> None:
        """Make the longest lease of each live session that of the present policies."""
        groups, found, sessions = rows.groups(), rows.policies(), rows.live_sessions()
        longest = {
            each.id: Policy.of(found, each.user_id, groups.get(each.user_id)).longest_lease()
            for each in sessions
        }
        for row in rows.some([each.id for each in sessions if each.max_lease_minutes != longest[each.id]]):
            row.max_lease_minutes = longest[row.id]


def _policy(rows: Rows, user_id: str, group: str | None) -> Policy:
    return Policy.of(rows.policies(), user_id, group)


def _held(rows: Rows, user_id: str, now: datetime) -> Sequence[Held]:
    return policies.held_by(rows.ended_since(user_id, now - policies.WEEK), rows.of_user(user_id), now)


def _without_limits(policy: Policy) -> Policy:
    return replace(policy, rules={})
