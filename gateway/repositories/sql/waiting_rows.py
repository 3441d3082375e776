"""The rows of the waiting line."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import and_, func, or_, orm, select, tuple_

from gateway.domain.models import Cordon, EndedSession, Session
from gateway.domain.states import Reason
from gateway.domain.waiting_request import WaitingRequest


class WaitingRows:
    """A part of `SessionRows`."""

    _session: orm.Session

    def join_line(self, request: WaitingRequest) -> None:
        self._session.add(request)
        self._session.flush()

    def waiting(self, session_id: str) -> WaitingRequest | None:
        return self._session.get(WaitingRequest, session_id)

    def waiting_of_user(self, user_id: str) -> WaitingRequest | None:
        return self._session.scalar(select(WaitingRequest).where(WaitingRequest.user_id == user_id))

    def line(self, skip: int = 0, limit: int | None = None) -> Sequence[WaitingRequest]:
        """Return the requests in line, the first one first, without those whose session is being opened."""
        order = (WaitingRequest.priority.desc(), WaitingRequest.asked_at, WaitingRequest.id)
        waits = select(WaitingRequest).where(WaitingRequest.id.not_in(select(Session.id)))
        return self._session.scalars(waits.order_by(*order).offset(skip).limit(limit)).all()

    def place(self, request: WaitingRequest) -> int:
        """Return the place in line of a request whose session is not being opened; the first one has 1."""
        is_older = tuple_(WaitingRequest.asked_at, WaitingRequest.id) < (request.asked_at, request.id)
        is_equal = and_(WaitingRequest.priority == request.priority, is_older)
        ahead = or_(WaitingRequest.priority > request.priority, is_equal)
        waits = WaitingRequest.id.not_in(select(Session.id))
        count = select(func.count()).select_from(WaitingRequest).where(ahead, waits)
        return 1 + self._session.scalars(count).one()

    def is_line_planned(self) -> bool:
        """Return whether a request waits, a maintenance is announced, or a session was limited for one."""
        signs = (
            select(WaitingRequest.id).limit(1),
            select(Cordon.gpu).where(Cordon.starts_at.is_not(None)).limit(1),
            select(Session.id).where(Session.latest_end.is_not(None)).order_by(Session.latest_end).limit(1),
        )
        return any(self._session.scalar(sign) is not None for sign in signs)

    def opened_from_line(self) -> Sequence[Session]:
        """Return the live sessions whose request is still in the table."""
        return self._session.scalars(select(Session).where(Session.id.in_(select(WaitingRequest.id)))).all()

    def leave_line(self, session_id: str) -> None:
        if request := self.waiting(session_id):
            self._session.delete(request)
            self._session.flush()

    def put_back(self, session: Session) -> None:
        """Delete the session of a request that goes on waiting."""
        self._session.delete(session)
        self._session.flush()

    def end_waiting(
        self, request: WaitingRequest, reason: Reason, now: datetime, note: str | None = None
    ) -> EndedSession:
        """Move the request to the history."""
        ended = request.ended(reason, now, note)
        self._session.delete(request)
        self._session.add(ended)
        self._session.flush()
        return ended
