"""One client's connection: its login, its way upstream, and its end.

The upstream is opened once the client has proved its key, never while a key is only asked about.
"""

import asyncio
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from gateway.domain.notice import Notice, NoticeState
from gateway.router import limits
from gateway.router.hold import hold
from gateway.router.route import Route, Upstream
from gateway.router.ssh import wire
from gateway.router.ssh.authentication import ServerAuthentication
from gateway.router.ssh.handshake import ServerHandshake
from gateway.router.ssh.keys import PrivateKey
from gateway.router.ssh.transport import Closed, Transport
from gateway.router.ssh.wire import BY_APPLICATION, SshError
from gateway.router.upstream import ENDED, UpstreamConnection, explanation, explanation_of_the_end

# Until the client takes part in the key exchange; until the login is done. In between, people compare the
# fingerprint of the host key, or type a passphrase.
EXCHANGE_SECONDS, LOGIN_SECONDS = 30, 120

_GATEWAY_SECONDS, _POLL_SECONDS = 3.0, 0.1

NO_SESSION = "no session"
_WITHDRAWN = "the way into the session was taken away"
SESSION_ENDED = f"{_WITHDRAWN}: the session has ended"
KEY_REMOVED = f"{_WITHDRAWN}: the key of this connection was removed from it"
SESSION_REPLACED = f"{_WITHDRAWN}: another session has taken its place; log in again"


class LoginContext(Protocol):
    """What a login needs of its process."""

    host_keys: Mapping[str, PrivateKey]
    is_lobby: bool

    @property
    def knows_routes(self) -> bool:
        """False while the pipe file cannot be used, so that nobody has a route."""

    def find(self, user: str) -> Route | None:
        """The user's route as the pipe file is now."""

    def admits(self, route: Route, user: str, key: bytes) -> bool: ...

    def notice(self, user: str) -> Notice | None:
        """What a user without a route gets to read; None if there is nothing."""

    def may_read(self, notice: Notice, key: bytes) -> bool: ...

    async def log_in(self, number: int, user: str, held: bool = False) -> str | None:
        """Count a login, or return why there must not be another. A `held` one waits for its session."""

    def release(self, number: int) -> None:
        """The login is held no more."""

    def report(self, number: int, event: str, **facts: Any) -> None: ...

    def gone(self, login: "Login") -> None: ...


class Login:
    """`number` identifies the connection among all of the router."""

    def __init__(self, context: LoginContext, number: int) -> None:
        self.number = number
        self._context = context
        self._key = b""
        self._route: Route | None = None
        self._notice: Notice | None = None  # of a user without a route
        self._upstream: UpstreamConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_joined = False
        self._refusal = self._detail = ""
        self.transport = Transport(lambda each: ServerHandshake(each, context.host_keys), self)
        self._authentication = ServerAuthentication(self.transport, self._admits, self._accepted)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(EXCHANGE_SECONDS, self._require_exchange)

    @property
    def user(self) -> str:
        return self._authentication.user

    def start(self, connection: socket.socket) -> None:
        """Speak SSH on an accepted connection."""
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._start(connection))

    async def _start(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: self.transport, connection)

    def end(self, reason: str, detail: str = "") -> None:
        """Send the reason to the client and close both ends. The detail is for the log alone."""
        self._refusal, self._detail = self._refusal or reason, detail
        self.transport.close(SshError(reason, code=BY_APPLICATION))

    def lost_route(self) -> str | None:
        """Why the client, whose key is proved, would not get to the same place if it came now; None if it
        would. A login that is still on its way into the session must not outlive its key either."""
        if not self._key or self._route is None:
            return None
        route = self._context.find(self.user)
        if route is None:
            return self._reason_of_the_end() if self._context.knows_routes else None
        if not self._context.admits(route, self.user, self._key):
            return KEY_REMOVED
        chosen = self._upstream.upstream if self._upstream else _upstream(self._route, self.user)
        return None if _upstream(route, self.user) == chosen else SESSION_REPLACED

    def _reason_of_the_end(self) -> str:
        """The first sentence of the notice about this session, or what is true of every end."""
        notice, session_id = self._context.notice(self.user), self._route.session_id if self._route else ""
        if notice and notice.state is NoticeState.ENDED and notice.session_id == session_id:
            return notice.lines[0]
        return SESSION_ENDED

    # What the transport calls.

    def secured(self) -> None:
        pass

    def packet(self, payload: bytes) -> bool:
        return self._authentication.packet(payload)

    def ended(self, error: SshError) -> None:
        self._timer.cancel()
        if self._task:
            self._task.cancel()
        if self._upstream:
            self._upstream.close("the client has gone")
        facts = {"user_id": self.user or None, "session_id": self._route.session_id if self._route else None}
        if self._is_joined:
            reason = self._refusal or ("by the client" if isinstance(error, Closed) else str(error))
            self._context.report(self.number, "closed", reason=reason, **facts)
        else:
            reason, detail, points = self._failure(error)
            self._context.report(
                self.number, "refused", reason=reason, detail=detail or None, points=points, **facts
            )

    def gone(self) -> None:
        self._context.gone(self)

    # The login.

    def _require_exchange(self) -> None:
        if self.transport.exchange.session_id:
            rest = LOGIN_SECONDS - EXCHANGE_SECONDS
            self._timer = asyncio.get_running_loop().call_later(rest, self._is_late)
        else:
            self._is_late()

    def _is_late(self) -> None:
        self.transport.close(SshError("the login took too long", code=BY_APPLICATION))

    def _admits(self, user: str, key: bytes) -> bool:
        self._route, self._notice = self._context.find(user), None
        if self._route:
            return self._context.admits(self._route, user, key)
        self._notice = self._context.notice(user)
        return self._notice is not None and self._context.may_read(self._notice, key)

    def _accepted(self, user: str, key: bytes) -> None:
        self._timer.cancel()
        self._key = key
        self._task = asyncio.get_running_loop().create_task(self._open(user))

    async def _open(self, user: str) -> None:
        """Go on with what `_admits` has found for this key just now."""
        is_waiting = self._notice is not None and self._notice.state is not NoticeState.ENDED
        refusal = await self._context.log_in(self.number, user, held=is_waiting)
        if refusal:
            self.end(refusal)
        elif is_waiting:
            await self._hold(user)
        elif self._notice:
            self.show(self._notice)
            self.end(NO_SESSION)
        else:
            await self._connect(user)

    async def _hold(self, user: str) -> None:
        outcome = await hold(self, NO_SESSION)
        self._context.release(self.number)
        self._route = outcome.route
        if outcome.route is None:
            self.end(outcome.refusal)
        elif not self._context.admits(outcome.route, user, self._key):
            self.end(KEY_REMOVED)
        else:
            await self._connect(user)

    # What a hold calls.

    def route(self) -> Route | None:
        return self._context.find(self.user)

    def notice(self) -> Notice | None:
        notice = self._context.notice(self.user)
        return notice if notice and self._context.may_read(notice, self._key) else None

    def show(self, notice: Notice) -> None:
        lines = notice.read_at(datetime.now(UTC))
        self._authentication.show("".join(f"  {line}\n" for line in lines))
        self.transport.flush()

    def heartbeat(self) -> None:
        """SSHPiper passes banners on, and no packets of this kind."""
        if self._context.is_lobby:
            self._authentication.show("")
        else:
            self.transport.send(bytes((wire.IGNORE,)) + wire.string(""))
        self.transport.flush()

    async def _connect(self, user: str) -> None:
        assert self._route is not None
        try:
            self._upstream = UpstreamConnection(self._route.upstream(user), self._upstream_ended)
            await self._upstream.open(self._join)
        except (OSError, TimeoutError, ValueError, SshError) as error:
            self.end(explanation(error), detail=str(error) or type(error).__name__)

    def _join(self) -> None:
        assert self._upstream is not None
        assert self._route is not None
        self._is_joined = True
        self._authentication.succeed()
        self.transport.join(self._upstream.transport)
        self.transport.flush()
        self._context.report(self.number, "accepted", user_id=self.user, session_id=self._route.session_id)

    def _upstream_ended(self, error: SshError) -> None:
        if not self.transport.has_ended:
            self._task = asyncio.get_running_loop().create_task(self._explain(error))

    async def _explain(self, error: SshError) -> None:
        assert self._upstream is not None
        reason = self.lost_route()
        if reason is None and error.detail:
            reason = f"the session closed the connection: {error.detail}"
        self.end(reason or await self._explanation(self._upstream.upstream))

    async def _explanation(self, upstream: Upstream) -> str:
        """If the session has ended by itself, wait a moment for the gateway, which finds out why."""
        explanation = await explanation_of_the_end(upstream)
        deadline = asyncio.get_running_loop().time() + _GATEWAY_SECONDS
        while explanation == ENDED and asyncio.get_running_loop().time() < deadline:
            if reason := self.lost_route():
                return reason
            await asyncio.sleep(_POLL_SECONDS)
        return explanation

    def _failure(self, error: SshError) -> tuple[str, str, float]:
        """Reason and detail of a login that failed, and how much it counts against its address."""
        if self._refusal:
            return self._refusal, self._detail, 0.0
        if not isinstance(error, Closed):
            return error.reason, error.detail, limits.REFUSED
        if not self.transport.identification.version:
            return "the client left before it sent its version", error.detail, limits.LEFT_EARLY
        if not self.transport.exchange.session_id:
            return "the client left during the key exchange", error.detail, limits.LEFT_LATER
        if not self.user:
            return "the client left before it named a user", error.detail, limits.LEFT_LATER
        if self._key:
            return "the client left before it got into the session", error.detail, 0.0
        if self._authentication.awaits_proof:
            return "the client left before it proved its key", error.detail, limits.LEFT_LATER
        if not self._context.knows_routes:
            return "the pipe file cannot be used", self._authentication.summary, 0.0
        return "no key fits", self._authentication.summary, limits.REFUSED


def _upstream(route: Route, user: str) -> Upstream | None:
    try:
        return route.upstream(user)
    except (OSError, ValueError):
        return None
