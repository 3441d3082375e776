"""Extends the leases of live sessions."""

import logging
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from gateway.domain import counters
from gateway.domain.audit import Action
from gateway.domain.clock import Clock
from gateway.domain.lease import MINUTE, Extension, LeaseLimit
from gateway.domain.models import Event, Session
from gateway.errors import (
    DatabaseUnavailable,
    GatewayError,
    LeaseMoved,
    LeaseTooLong,
    PolicyRefused,
    Promise,
    WaitedFor,
)
from gateway.failpoints import reach
from gateway.services.notices import Notices
from gateway.services.policies import Policies
from gateway.services.ports import Database, Rows

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Leases:
    database: Database
    notices: Notices
    limit: LeaseLimit
    policies: Policies
    clock: Clock

    def extend(self, session_id: str, extension: Extension, owner: str | None = None) -> Session:
        """Move the end of a live session's lease, and return the session.

        With `owner`, sessions of other users are not found. Raises `SessionNotFound`, `SessionEnded`,
        `LeaseMoved`, `WaitedFor`, `LeaseTooLong` and `PolicyRefused`. The row is what counts: if the
        session's files cannot be written now, the reconciler writes them later.
        """
        try:
            return self._extend(session_id, extension, owner)
        except (LeaseTooLong, LeaseMoved, WaitedFor, PolicyRefused):
            with suppress(GatewayError), self.database.begin() as rows:
                rows.count([counters.refused_extension()])
            raise

    def _extend(self, session_id: str, extension: Extension, owner: str | None) -> Session:
        with self.database.begin() as rows:
            session = rows.live(session_id, owner)
            now = self.clock()
            try:
                by = self.limit.grant(session, extension, now)
            except WaitedFor as refusal:
                raise _named(rows, session, refusal) from None
            if not extension.is_override:
                by = self.policies.extension(rows, session, by, or_less=extension.by is None)
            session.extend(by)
            rows.record(Event.of(now.wall, Action.EXTENDED, _detail(session, by, extension), session=session))
        reach("after-extend-commit", DatabaseUnavailable)
        self.notices.attempt(session)
        reach("after-lease-files-write", DatabaseUnavailable)
        log.info("lease extended", extra={**session.named, "minutes": by // MINUTE})
        return session


def _named(rows: Rows, session: Session, refusal: WaitedFor) -> WaitedFor:
    """The refusal with the promise that is in the way."""
    request = rows.waiting(session.waited_for_by) if session.waited_for_by else None
    promise = Promise(request.user_id, request.mig_profile, request.starts_at) if request else None
    return WaitedFor(refusal.latest_end, session.latest_end or session.expires_at, promise)


def _detail(session: Session, by: timedelta, extension: Extension) -> str:
    detail = f"{by // MINUTE} min, until {session.expires_at:%Y-%m-%d %H:%M:%S} UTC"
    return f"{detail}, beyond the limit" if extension.is_override else detail
