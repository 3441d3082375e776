"""What each user may have: rules by user and by group, and when a quota allows more again. Pure.

A policy is a set of rules, each of which may be missing. For every rule, the policy of the user decides, else
that of the user's group, else the policy `default`, else the settings. A rule narrows a setting and never
widens it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from gateway.domain import users
from gateway.domain.models import EndedSession, Session
from gateway.domain.usage import hours, share_held
from gateway.errors import PolicyRefused

DEFAULT, OF_USER = "default", "user:"
WEEK = timedelta(days=7)
_HOUR = 3600.0
_STANDARD_TTL_MINUTES = 60

Rules = Mapping[str, Any]


class Rule(StrEnum):
    DEFAULT_TTL_MINUTES = "default_ttl_minutes"
    MAX_TTL_MINUTES = "max_ttl_minutes"
    MAX_LEASE_MINUTES = "max_lease_minutes"
    PROFILES = "profiles"
    IMAGES = "images"
    GPU_HOURS_PER_WEEK = "gpu_hours_per_week"
    MAY_START = "may_start"
    IDLE_MINUTES = "idle_minutes"
    MAX_KEEP_HOURS = "max_keep_hours"
    PRIORITY = "priority"
    MAX_WAIT_MINUTES = "max_wait_minutes"


_OF_NEW_LEASES = (Rule.MAX_TTL_MINUTES, Rule.MAX_LEASE_MINUTES)


@dataclass(frozen=True, slots=True)
class Held:
    """A slice that a user held, or will hold, from `since` to `until`. `share` is its share of a GPU."""

    since: datetime
    until: datetime
    share: float

    def hours(self, since: datetime, until: datetime) -> float:
        """Return the GPU-hours of it within this time."""
        overlap = min(self.until, until) - max(self.since, since)
        return max(0.0, overlap.total_seconds()) / _HOUR * self.share


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules that hold for one user. `sources` names the policy that each rule comes from."""

    rules: Rules
    sources: Mapping[str, str]

    @classmethod
    def of(cls, policies: Mapping[str, Rules], user_id: str, group: str | None) -> "Policy":
        rules: dict[str, Any] = {}
        sources: dict[str, str] = {}
        for name in (f"{OF_USER}{user_id}", group, DEFAULT):
            for rule, value in policies.get(name or "", {}).items():
                if value is not None and rule not in rules:
                    rules[rule], sources[rule] = value, str(name)
        return cls(rules, sources)

    def ttl(self, wanted: timedelta | None, longest: timedelta) -> timedelta:
        """Return the length of a new lease. `longest` is that of the settings. Raises `PolicyRefused`."""
        if wanted is None:
            standard = self._minutes(Rule.DEFAULT_TTL_MINUTES) or timedelta(minutes=_STANDARD_TTL_MINUTES)
            limits = (self._minutes(rule) for rule in _OF_NEW_LEASES)
            return min(each for each in (standard, longest, *limits) if each is not None)
        for rule in _OF_NEW_LEASES:
            self._require_at_most(rule, wanted, "lease")
        return wanted

    def require_wait(self, wanted: timedelta) -> None:
        """Raise `PolicyRefused` if the user's requests may not wait in line for so long."""
        self._require_at_most(Rule.MAX_WAIT_MINUTES, wanted, "wait")

    def priority(self) -> int:
        """Return the priority that the user's requests have when they join the waiting line."""
        priority: int = self.rules.get(Rule.PRIORITY, 0)
        return priority

    def profile(self, wanted: str | None) -> str | None:
        """Return the profile of a new session: the first of the allowed ones if the caller leaves the choice,
        None if every profile is allowed then. Raises `PolicyRefused`."""
        return self._one_of(Rule.PROFILES, wanted, "profile")

    def image(self, wanted: str | None) -> str | None:
        """Return the name of the image of a new session, as `profile` does. Raises `PolicyRefused`."""
        return self._one_of(Rule.IMAGES, wanted, "image")

    def _one_of(self, rule: Rule, wanted: str | None, what: str) -> str | None:
        allowed: Sequence[str] | None = self.rules.get(rule)
        if allowed is None:
            return wanted
        if wanted is None and allowed:
            return allowed[0]
        if wanted not in allowed:
            listed = ", ".join(allowed) or "none"
            refused = f"the {what} {wanted or 'that is the default'}: the allowed ones are {listed}"
            raise self._refused(rule, refused, list(allowed), wanted)
        return wanted

    def require_start(self) -> None:
        """Raise `PolicyRefused` if the user may not start sessions."""
        if self.rules.get(Rule.MAY_START) is False:
            raise self._refused(Rule.MAY_START, "the session: this user may start none", False, None)

    def require_hours(self, held: Sequence[Held], wanted: Held, now: datetime) -> None:
        """Raise `PolicyRefused` if the lease `wanted` does not fit into the GPU-hours of a week.

        `held` are the user's other sessions. A lease counts as a whole, up to its end, from its start on.
        """
        limit: float | None = self.rules.get(Rule.GPU_HOURS_PER_WEEK)
        if limit is None:
            return
        used = used_hours(held, now)
        needed = wanted.hours(now - WEEK, wanted.until)
        if used + needed <= limit + 1e-9:
            return
        retry_at = _free_again(held, limit - needed, now)
        when = f"possible from {retry_at:%Y-%m-%d %H:%M} UTC" if retry_at else "ask for a shorter lease"
        what = f"{needed:.2f} GPU-hours: {used:.2f} of the {hours(limit)} for 7 days are used; {when}"
        raise self._refused(Rule.GPU_HOURS_PER_WEEK, what, limit, round(used, 2), retry_at)

    def within_hours(self, held: Sequence[Held], wanted: Held, now: datetime) -> Held:
        """Return the lease `wanted`, shortened to the GPU-hours that are left in the user's week."""
        limit: float | None = self.rules.get(Rule.GPU_HOURS_PER_WEEK)
        if limit is None:
            return wanted
        left = max(0.0, limit - used_hours(held, now))
        until = max(wanted.since, now - WEEK) + timedelta(hours=left / wanted.share)
        return replace(wanted, until=min(wanted.until, until))

    def longest_lease(self) -> int | None:
        """Return the minutes that a lease may last with its extensions; None if only the settings decide."""
        minutes: int | None = self.rules.get(Rule.MAX_LEASE_MINUTES)
        return minutes

    def _minutes(self, rule: Rule) -> timedelta | None:
        minutes = self.rules.get(rule)
        return None if minutes is None else timedelta(minutes=minutes)

    def _require_at_most(self, rule: Rule, wanted: timedelta, what: str) -> None:
        limit = self._minutes(rule)
        if limit is not None and wanted > limit:
            asked, most = wanted // timedelta(minutes=1), limit // timedelta(minutes=1)
            message = f"a {what} of {asked} minutes: the longest is {most} minutes"
            raise self._refused(rule, message, most, asked)

    def _refused(
        self, rule: Rule, what: str, limit: object, used: object, retry_at: datetime | None = None
    ) -> PolicyRefused:
        message = f"The policy {self.sources[rule]} ({rule}) refuses {what}."
        return PolicyRefused(message, rule, limit, used, retry_at)


def held_by(ended: Iterable[EndedSession], live: Session | None, now: datetime) -> list[Held]:
    """Return what a user held in the past, and what the user's live session holds until its lease ends."""
    found = [
        Held(one.opened_at, one.ended_at, share_held(one.mig_profile, one.gpu_share))
        for one in ended
        if one.opened_at
    ]
    if live:
        share = share_held(live.mig_profile, live.gpu_share)
        found.append(Held(live.opened_at or live.created_at, max(now, live.expires_at), share))
    return found


def used_hours(held: Iterable[Held], at: datetime) -> float:
    """Return the GPU-hours of the 7 days before `at`, and those that live leases still promise then."""
    return sum(one.hours(at - WEEK, max(at, one.until)) for one in held)


def problem_with_name(name: str) -> str | None:
    """Return what is wrong with the name of a policy, as a sentence; None if it is valid."""
    if name.startswith(OF_USER):
        return users.problem_with(name.removeprefix(OF_USER))
    return users.problem_with_group(name)


def _free_again(held: Sequence[Held], allowed: float, now: datetime) -> datetime | None:
    """Return when no more than `allowed` hours count; None if that never happens.

    Between the starts and the ends of what rolls out of the week, the sum falls at an even rate.
    """
    if allowed < 0:
        return None
    times = sorted({now, *(time + WEEK for one in held for time in (one.since, one.until))})
    times = [time for time in times if time >= now]
    for first, last in zip(times, times[1:], strict=False):
        before, after = used_hours(held, first), used_hours(held, last)
        if after <= allowed:
            part = (before - allowed) / (before - after) if before > after else 0.0
            return first + (last - first) * max(0.0, part)
    return times[-1]
