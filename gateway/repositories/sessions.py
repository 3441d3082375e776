"""Live sessions, ended ones and users, as rows inside one transaction."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, func, orm, select

from gateway.models import FIRST_UID, EndedSession, Session, Status, User


class SessionRows:
    """The verbs of one transaction; `SqlDatabase.begin()` and `.read()` hand it out."""

    def __init__(self, session: orm.Session) -> None:
        self._session = session

    def add(self, session: Session) -> None:
        self._session.add(session)
        self._session.flush()

    def get(self, session_id: str) -> Session | None:
        return self._session.get(Session, session_id)

    def of_user(self, user_id: str) -> Session | None:
        return self._session.scalar(select(Session).where(Session.user_id == user_id))

    def list(self) -> Sequence[Session]:
        """Every live session, oldest first."""
        return self._session.scalars(select(Session).order_by(Session.created_at, Session.id)).all()

    def expired(self, now: datetime) -> Sequence[Session]:
        """Sessions whose lease is over and that nobody has begun to close."""
        over = (Session.expires_at <= now, Session.status != Status.CLOSING)
        return self._session.scalars(select(Session).where(*over).order_by(Session.expires_at)).all()

    def next_expiry(self) -> datetime | None:
        return self._session.scalar(
            select(func.min(Session.expires_at)).where(Session.status != Status.CLOSING)
        )

    def user(self, user_id: str) -> User:
        """The user's row, made with the next free uid when there was none."""
        user = self._session.get(User, user_id)
        if user is None:
            highest = self._session.scalar(select(func.max(User.uid)))
            user = User(id=user_id, uid=FIRST_UID if highest is None else highest + 1, public_keys=[])
            self._session.add(user)
            self._session.flush()
        return user

    def public_keys(self, user_id: str) -> Sequence[str]:
        """The keys stored for a user; none for somebody unknown."""
        user = self._session.get(User, user_id)
        return user.public_keys if user else []

    def end(self, session: Session, now: datetime) -> EndedSession:
        """The row leaves the live sessions; its record stays."""
        ended = session.ended(now)
        self._session.delete(session)
        self._session.add(ended)
        return ended

    def get_ended(self, session_id: str) -> EndedSession | None:
        return self._session.get(EndedSession, session_id)

    def forget_ended(self, before: datetime) -> None:
        self._session.execute(delete(EndedSession).where(EndedSession.ended_at < before))
