"""The database's rows inside one transaction: sessions, users, cordons, tokens and events."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice

from sqlalchemy import and_, delete, func, or_, orm, select, update

from gateway.domain import counters
from gateway.domain.models import (
    Cordon,
    Deployment,
    EndedSession,
    Event,
    ProfileRequest,
    Session,
    SignIn,
    Token,
    User,
)
from gateway.domain.uids import UidRange
from gateway.domain.webhooks import Subject
from gateway.errors import SessionEnded, SessionNotFound, SessionWaits, Unavailable
from gateway.repositories.sql.counter_rows import CounterRows
from gateway.repositories.sql.live_rows import LiveRows, batches
from gateway.repositories.sql.policy_rows import PolicyRows
from gateway.repositories.sql.usage_rows import UsageRows
from gateway.repositories.sql.waiting_rows import WaitingRows
from gateway.repositories.sql.webhook_rows import WebhookRows

_DEMAND_SAMPLE = 1000  # requests
_REPETITION = timedelta(minutes=10)


class SessionRows(LiveRows, CounterRows, UsageRows, WaitingRows, WebhookRows, PolicyRows):
    """The operations of one transaction; `SqlDatabase.begin()` and `.read()` return it."""

    def __init__(self, session: orm.Session) -> None:
        self._session = session

    def add(self, session: Session) -> None:
        self._session.add(session)
        self._session.flush()

    def get(self, session_id: str) -> Session | None:
        return self._session.get(Session, session_id)

    def live(self, session_id: str, owner: str | None = None) -> Session:
        session = self.get(session_id)
        if session and owner in (None, session.user_id):
            return session
        ended = self.get_ended(session_id)
        if ended and owner in (None, ended.user_id):
            raise SessionEnded(session_id, ended.reason, ended.ended_at, ended.note)
        waiting = self.waiting(session_id)
        if waiting and owner in (None, waiting.user_id):
            raise SessionWaits(session_id, waiting.user_id)
        raise SessionNotFound(session_id)

    def of_user(self, user_id: str) -> Session | None:
        return self._session.scalar(select(Session).where(Session.user_id == user_id))

    def user(self, user_id: str, free_uids: Iterable[int] | None = None) -> User:
        """Return the user's row. The first call for a user creates it with the first of `free_uids` that no
        other user has, by default with the next of the default range. Raises `Unavailable` if all are taken.
        """
        user = self._session.get(User, user_id)
        if user is None:
            if free_uids is None:
                free_uids = islice(UidRange().unassigned(self.assigned_uids()), 1)
            candidates = list(free_uids)
            taken = set(self._session.scalars(select(User.uid).where(User.uid.in_(candidates))))
            uid = next((uid for uid in candidates if uid not in taken), None)
            if uid is None:
                raise Unavailable("No uid is free for a new user: widen --uid-range (GATEWAY_UID_RANGE).")
            user = User(id=user_id, uid=uid, public_keys=[])
            self._session.add(user)
            self._session.flush()
        return user

    def has_user(self, user_id: str) -> bool:
        return self._session.get(User, user_id) is not None

    def uids(self) -> Mapping[str, int]:
        """Every user's uid, by user id."""
        return {user.id: user.uid for user in self._session.execute(select(User.id, User.uid))}

    def assigned_uids(self) -> set[int]:
        """Return the uids of all users. The database reads its index only."""
        return {uid for (uid,) in self._session.execute(select(User.__table__.c.uid)).all()}

    def user_of(self, uid: int) -> str | None:
        return self._session.scalar(select(User.id).where(User.uid == uid))

    def assign_uid(self, user_id: str, uid: int) -> None:
        """Give the user this uid, which nobody else may have."""
        user = self._session.get(User, user_id)
        if user is None:
            self._session.add(User(id=user_id, uid=uid, public_keys=[]))
        else:
            user.uid = uid
        self._session.flush()

    def deployment_id(self) -> str:
        """Names this database on the containers that are opened with it."""
        return self._session.scalars(select(Deployment.deployment_id)).one()

    def public_keys(self, user_id: str) -> Sequence[str]:
        """Return the public keys stored for a user; an empty list for an unknown one."""
        user = self._session.get(User, user_id)
        return user.public_keys if user else []

    def to_measure(self, since: datetime, above: int) -> Sequence[str]:
        """Return the ids of the users whose workspaces must be measured again.

        These have a session, had one that ended at `since` or later, or held `above` bytes or more at the
        last measurement.
        """
        conditions = (
            User.id.in_(select(Session.user_id)),
            User.id.in_(select(EndedSession.user_id).where(EndedSession.ended_at >= since)),
            User.workspace_bytes >= above,
        )
        return self._session.scalars(select(User.id).where(or_(*conditions)).order_by(User.id)).all()

    def end(self, session: Session, now: datetime) -> EndedSession:
        """Move the session's row from the live sessions to the history."""
        ended = session.ended(now)
        if session.opened_at:
            self.count([counters.held(session.mig_profile, session.user_id, session.opened_at, now)])
        self._session.delete(session)
        self._session.add(ended)
        return ended

    def add_ended(self, ended: EndedSession) -> None:
        self._session.add(ended)

    def get_ended(self, session_id: str) -> EndedSession | None:
        return self._session.get(EndedSession, session_id)

    def last_ended(self, user_id: str) -> EndedSession | None:
        """Return the user's session that ended last; None if the user had none, or its record is deleted."""
        latest = select(EndedSession).where(EndedSession.user_id == user_id)
        return self._session.scalar(latest.order_by(EndedSession.ended_at.desc()).limit(1))

    def last_ends(self, since: datetime) -> Mapping[str, EndedSession]:
        """Return each user's session that ended last, of those that ended at `since` or later."""
        ended_at = func.max(EndedSession.ended_at).label("ended_at")
        recent = select(EndedSession.user_id, ended_at).where(EndedSession.ended_at >= since)
        last = recent.group_by(EndedSession.user_id).subquery()
        of_user = and_(EndedSession.user_id == last.c.user_id, EndedSession.ended_at == last.c.ended_at)
        found = self._session.scalars(select(EndedSession).join(last, of_user))
        return {ended.user_id: ended for ended in found}

    def stored_keys(self, user_ids: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """The stored public keys of these users, by user id."""
        columns, found = select(User.id, User.public_keys), dict[str, Sequence[str]]()
        for batch in batches(user_ids):
            users = self._session.execute(columns.where(User.id.in_(batch)))
            found |= {user.id: user.public_keys for user in users}
        return found

    def forget(self, before: datetime) -> None:
        """Delete the ended sessions, the events, the requests and the deliveries from before that time."""
        self._session.execute(delete(EndedSession).where(EndedSession.ended_at < before))
        self._session.execute(delete(Event).where(Event.at < before))
        self._session.execute(delete(ProfileRequest).where(ProfileRequest.at < before))
        self._forget_deliveries(before)

    def record_request(self, user_id: str, mig_profile: str, now: datetime) -> None:
        """Record a request for a profile. Repetitions by the same user within ten minutes count once."""
        same = (ProfileRequest.user_id == user_id, ProfileRequest.mig_profile == mig_profile)
        recent = ProfileRequest.at > now - _REPETITION
        if self._session.scalar(select(ProfileRequest.id).where(*same, recent).limit(1)) is None:
            request = ProfileRequest(at=now, user_id=user_id, mig_profile=mig_profile)
            self._session.add(request)
            self._session.flush()
            outdated = ProfileRequest.id <= request.id - _DEMAND_SAMPLE
            self._session.execute(delete(ProfileRequest).where(outdated))

    def demand(self) -> Mapping[str, int]:
        """Return how often each profile was requested lately, refused requests included."""
        count = select(ProfileRequest.mig_profile, func.count()).group_by(ProfileRequest.mig_profile)
        return {profile: int(number) for profile, number in self._session.execute(count)}

    def cordons(self) -> Mapping[str, Cordon]:
        """Return the cordons by the UUID of their GPU."""
        return {cordon.gpu: cordon for cordon in self._session.scalars(select(Cordon))}

    def cordon(self, gpu: str, reason: str, now: datetime, starts_at: datetime | None = None) -> None:
        """Cordon a GPU, or change the reason and the begin of its cordon."""
        existing = self._session.get(Cordon, gpu)
        if existing is None:
            self._session.add(Cordon(gpu=gpu, since=now, reason=reason, starts_at=starts_at))
        else:
            existing.reason, existing.starts_at = reason, starts_at

    def uncordon(self, gpu: str) -> None:
        self._session.execute(delete(Cordon).where(Cordon.gpu == gpu))

    def record(self, event: Event) -> None:
        """Add the event to the audit log, what it counts to the counters, and it to the outbox of each
        webhook that wants it."""
        self._session.add(event)
        self._session.flush()
        session = self._subject(event)
        profile = session.mig_profile if session else ""
        reason = session.reason if isinstance(session, EndedSession) else ""
        self.count(counters.of_event(event.what, event.detail, profile, reason))
        self._post_to_all(event, session)

    def _subject(self, event: Event) -> Subject | None:
        if event.session_id is None:
            return None
        found = self.get(event.session_id) or self.get_ended(event.session_id)
        return found or self.waiting(event.session_id)

    def events(
        self,
        *,
        session_id: str | None = None,
        user_id: str | None = None,
        since: datetime | None = None,
        after: int | None = None,
        limit: int | None = None,
    ) -> Sequence[Event]:
        """Return the latest `limit` events that match, oldest first. With `after`, the id of an event, return
        the first `limit` events behind it."""
        found = select(Event).order_by(Event.id.desc() if after is None else Event.id).limit(limit)
        if session_id is not None:
            found = found.where(Event.session_id == session_id)
        if user_id is not None:
            found = found.where(Event.user_id == user_id)
        if since is not None:
            found = found.where(Event.at >= since)
        if after is not None:
            return self._session.scalars(found.where(Event.id > after)).all()
        return self._session.scalars(found).all()[::-1]

    def add_token(self, token: Token) -> None:
        self._session.add(token)

    def remove_token(self, token: Token) -> None:
        self._session.delete(token)

    def token(self, name: str) -> Token | None:
        return self._session.get(Token, name)

    def tokens(self) -> Sequence[Token]:
        return self._session.scalars(select(Token).order_by(Token.created_at, Token.name)).all()

    def has_tokens(self) -> bool:
        return self._session.scalar(select(Token.name).limit(1)) is not None

    def note_use(self, name: str, now: datetime) -> None:
        self._session.execute(update(Token).where(Token.name == name).values(used_at=now))

    def add_sign_in(self, sign_in: SignIn) -> None:
        self._session.add(sign_in)

    def remove_sign_in(self, hashed: str) -> None:
        self._session.execute(delete(SignIn).where(SignIn.hash == hashed))

    def forget_sign_ins(self, before: datetime) -> None:
        self._session.execute(delete(SignIn).where(SignIn.until < before))
