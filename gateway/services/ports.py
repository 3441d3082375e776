"""The interfaces that the services need: a database, a host for sessions, SSH routes, leadership.

The classes under `repositories` implement these ports; `app` connects them to the services.
"""

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, Protocol

from gateway.domain.activity import GpuUse, Probe
from gateway.domain.board import Board
from gateway.domain.clock import Moment
from gateway.domain.forecast import Line
from gateway.domain.leased import SessionColumns
from gateway.domain.live_session import SessionSlice
from gateway.domain.mig import Gpu
from gateway.domain.models import Cordon, EndedSession, Event, Session, SignIn, Token, User
from gateway.domain.notice import Notice
from gateway.domain.observation import Observation
from gateway.domain.pipe import Pipe
from gateway.domain.plan import Allocation, Endings, SessionPlan, SessionRequest, Started
from gateway.domain.records import Webhook
from gateway.domain.recovery import Survivor
from gateway.domain.ssh_logins import Datagram
from gateway.domain.waiting import Plan, Waiter
from gateway.services.row_ports import CounterRows, LiveRows, PolicyRows, UsageRows, WaitingRows, WebhookRows

Check = Callable[[], str]  # returns one line about a part; raises GatewayError if the part is not ready


class Rows(LiveRows, CounterRows, UsageRows, WaitingRows, WebhookRows, PolicyRows, Protocol):
    """The operations of one transaction on the database's rows."""

    def add(self, session: Session) -> None: ...
    def get(self, session_id: str) -> Session | None: ...
    def live(self, session_id: str, owner: str | None = None) -> Session:
        """Return a live session.

        Raises `SessionNotFound` for an unknown id, `SessionWaits` for that of a request in line, and
        `SessionEnded` for an ended session. With `owner`, other users' sessions count as unknown.
        """

    def of_user(self, user_id: str) -> Session | None: ...
    def user(self, user_id: str, free_uids: Iterable[int] | None = None) -> User: ...
    def has_user(self, user_id: str) -> bool: ...
    def uids(self) -> Mapping[str, int]: ...
    def assigned_uids(self) -> set[int]: ...
    def user_of(self, uid: int) -> str | None: ...
    def assign_uid(self, user_id: str, uid: int) -> None: ...
    def deployment_id(self) -> str: ...
    def public_keys(self, user_id: str) -> Sequence[str]: ...
    def to_measure(self, since: datetime, above: int) -> Sequence[str]: ...
    def end(self, session: Session, now: datetime) -> EndedSession: ...
    def add_ended(self, ended: EndedSession) -> None: ...
    def get_ended(self, session_id: str) -> EndedSession | None: ...
    def last_ended(self, user_id: str) -> EndedSession | None: ...
    def last_ends(self, since: datetime) -> Mapping[str, EndedSession]: ...
    def stored_keys(self, user_ids: Sequence[str]) -> Mapping[str, Sequence[str]]: ...
    def forget(self, before: datetime) -> None: ...
    def record_request(self, user_id: str, mig_profile: str, now: datetime) -> None: ...
    def demand(self) -> Mapping[str, int]: ...
    def cordons(self) -> Mapping[str, Cordon]: ...
    def cordon(self, gpu: str, reason: str, now: datetime, starts_at: datetime | None = None) -> None: ...
    def uncordon(self, gpu: str) -> None: ...
    def record(self, event: Event) -> None: ...
    def events(
        self,
        *,
        session_id: str | None = None,
        user_id: str | None = None,
        since: datetime | None = None,
        after: int | None = None,
        limit: int | None = None,
    ) -> Sequence[Event]: ...
    def add_token(self, token: Token) -> None: ...
    def remove_token(self, token: Token) -> None: ...
    def token(self, name: str) -> Token | None: ...
    def tokens(self) -> Sequence[Token]: ...
    def has_tokens(self) -> bool: ...
    def note_use(self, name: str, now: datetime) -> None: ...
    def add_sign_in(self, sign_in: SignIn) -> None: ...
    def remove_sign_in(self, hashed: str) -> None: ...
    def forget_sign_ins(self, before: datetime) -> None: ...


class Database(Protocol):
    """Opens transactions. Raises `DatabaseUnavailable`, `DiskFull`."""

    def begin(self) -> AbstractContextManager[Rows]: ...
    def read(self) -> AbstractContextManager[Rows]: ...
    def has_tokens(self) -> bool: ...
    def token_of_hash(self, hashed: str) -> Token | None: ...
    def token_of_sign_in(self, hashed: str, now: datetime) -> Token | None: ...
    def check(self) -> None: ...


class Pipes(Protocol):
    """The pipe file. Raises `PipesUnavailable`, `DiskFull`."""

    def update(self, wanted: Callable[[], Pipe | None]) -> None: ...
    def remove(self, session_id: str) -> None: ...
    def list(self) -> Sequence[Pipe]: ...
    def replace(self, wanted: Callable[[], Iterable[Pipe]]) -> None: ...
    def routed_elsewhere(self, users: Iterable[str]) -> set[str]: ...
    def version(self) -> Hashable:
        """What is different after each publication, and after a change by another program. It is always the
        same where reading it costs more than publishing once a minute."""

    def check(self) -> None: ...


class NoticeFiles(Protocol):
    """What the router says to users without a route. Raises `Unavailable`, `DiskFull`."""

    def update(self, user_id: str, wanted: Callable[[], Notice | None]) -> None:
        """Write the notice that `wanted` returns; None removes the user's notice. `wanted` is called under a
        lock that other writers wait for."""

    def get(self, user_id: str) -> Notice | None: ...
    def all(self) -> Mapping[str, Notice | None]:
        """Every user's notice; None for a damaged one."""


class Planner(Protocol):
    """Decides where a session goes. It does no input or output, so a transaction may call it."""

    @property
    def is_advice(self) -> bool:
        """Whether somebody else allocates the slice, so that the sessions of a moment ago are enough to plan
        with."""

    def plan(
        self,
        request: SessionRequest,
        live: Sequence[SessionSlice],
        cordons: Mapping[str, Cordon],
        demand: Mapping[str, float],
        refused: Sequence[Allocation] = (),
        line: Line | None = None,
    ) -> SessionPlan:
        """Return the plan of a session. `live` are all sessions with a row. `demand` is the number of
        requests for each profile. `refused` are allocations that the host could not make. `line` is what was
        promised to others. Raises `NoCapacity` and `UnknownProfile`."""

    def profile(self, name: str | None, cordons: Mapping[str, Cordon]) -> str:
        """Return the profile of a request that leaves it open, or `name`. Raises `NoCapacity` and
        `UnknownProfile`."""

    def plan_line(
        self,
        waiters: Sequence[Waiter],
        live: Sequence[SessionSlice],
        cordons: Mapping[str, Cordon],
        demand: Mapping[str, float],
        now: Moment,
        overtaking: str | None = None,
        ending: str | None = None,
    ) -> Plan:
        """Plan the waiting line, as `domain.line_plan.plan`, as if the session `ending` ended now."""


class Host(Protocol):
    """Where sessions run: one server, or a cluster. To remove a part that does not exist is no error."""

    def list_gpus(self) -> list[Gpu]:
        """Return every GPU with its instances. Raises `DriverUnavailable`."""

    def cordon(self, gpus: Collection[str]) -> None:
        """Keep a scheduler that is not the gateway's off exactly these GPUs. Raises `Unavailable`."""

    def planner(self) -> Planner:
        """Return a planner for the present state of the host. Raises `DriverUnavailable`. Do not call it in a
        transaction."""

    def pin_image(self, reference: str) -> str:
        """Return what names this image for ever, whatever becomes of its tag. Raises `ImageMissing`. Do not
        call it in a transaction."""

    def line_planner(self) -> Planner:
        """Return a planner for the waiting line alone, without the checks that a new session needs. Raises
        `DriverUnavailable`. Do not call it in a transaction."""

    def was_used(self, session: Session) -> bool:
        """Whether anybody has logged in to the session. Raises `Unavailable`."""

    def start(self, plan: SessionPlan) -> Started:
        """Make everything that `plan` names. Return when the session accepts SSH and sees its slice.

        After a failure, the caller, which has recorded the plan, calls `stop`. Raises `Unavailable`,
        `DiskFull`.
        """

    def stop(self, session_id: str, allocation: Allocation | None) -> None:
        """Remove the session's container, then its slice."""

    def forget(self, session_id: str) -> None:
        """Remove the session's files. Call this last: the claim on the session is one of the files."""

    def show(self, session_id: str, wanted: Callable[[], Board | None]) -> None:
        """Show the user what `wanted` returns: at each login from now on, and to programs as a file.

        `wanted` is called under a lock that other writers of these files wait for. If it returns None,
        nothing changes. A session that has ended is no error. Raises `Unavailable`, `DiskFull`."""

    def differing(self, boards: Mapping[str, Board]) -> Collection[str]:
        """Return the ids of the sessions that do not show exactly their board. Raises `Unavailable`,
        `DiskFull`."""

    def tell(self, session: Session, text: str) -> int:
        """Write `text` to every terminal of the session, except those that are stopped or full. Return the
        number of terminals. Raises `Unavailable`."""

    def run_hook(self, session: Session, seconds_left: int) -> bool:
        """Start the user's own program for the end of the lease. Return False if there is none, or if it ran
        for this lease already. Raises `Unavailable`."""

    def signal(self, session: Session) -> int:
        """Send SIGTERM to the user's programs, but not to shells, terminal multiplexers and SSH connections.
        Return the number of programs. Raises `Unavailable`."""

    def activity(self, session: Session) -> Probe | None:
        """Return what the session says about its use; None if that makes no sense. Raises `Unavailable`."""

    def look_inside(self, session: Session) -> str | None:
        """Ask the session whether it still reaches its GPU, if nothing else says so. `observe` then knows the
        answer. Return the UUID of the MIG device that the session shows; None if it was not asked, or did not
        say. Raises `Unavailable`."""

    def gpu_use(self, session: Session) -> GpuUse:
        """Return the use of the session's slice. Raises `DriverUnavailable`."""

    def disconnect(self, session_id: str) -> None:
        """Close every SSH connection into the session. The user's programs continue."""

    def repair(self, session_id: str) -> None:
        """Restore the parts that `observe` reported as repairable, while the session stays open."""

    def observe(self, sessions: Sequence[SessionColumns]) -> Observation:
        """Return the state of `sessions`, which must have been read before, and the leftovers of others. A
        part that does not answer is named in the result and raises no error."""

    def survivors(self, besides: str | None = None) -> Sequence[Survivor]:
        """Return every session container of this network, as the host alone describes it: of any database,
        but not of the one with the id `besides`. Raises `Unavailable`."""

    def workspace_owners(self) -> Mapping[str, int]:
        """Return the users who have a workspace, and the uid that owns each workspace."""

    def free_uids(self, user_id: str, assigned: Collection[int]) -> Sequence[int]:
        """Return uids that a new user may get, the best one first: the owner of the user's workspace if there
        is one, then some of the range. No account of the host has any of them, and none owns another user's
        workspace. Do not call it in a transaction."""

    def account_of(self, uid: int) -> str | None:
        """Return the account or group of the host that has the same number; None if there is none."""

    def endings(self) -> Endings:
        """Report the ends of session containers from now on."""

    def claim(self, session_id: str) -> AbstractContextManager[None]:
        """Claim the session while it is opened or removed. The claim ends with the process."""

    def is_claimed(self, session_id: str) -> bool | None:
        """Whether a process holds the claim; None if this host cannot know."""

    def ensure(self) -> None:
        """Restore what all sessions share, such as their network. Raises the first failure."""

    def checks(self) -> Mapping[str, Check]:
        """Return one check for each part of the host."""

    def examinations(self) -> Mapping[str, Check]:
        """Return checks for the doctor alone: what they find keeps no session from opening."""

    def has_quotas(self) -> bool:
        """Whether the file system itself enforces the workspace quota."""

    def workspace_used(self, user_id: str) -> int:
        """Return the size of the user's workspace, in bytes."""


class Receivers(Protocol):
    """The receivers of webhooks."""

    def require_allowed(self, url: str) -> None:
        """Raise `InvalidRequest` if the gateway must not send anything there."""

    def post(self, webhook: Webhook, message_id: str, body: Mapping[str, Any], now: datetime) -> int:
        """Sign and send the body, and return the status of the response. Raises `DeliveryFailed`."""


ReceiveReports = Callable[[float], Datagram | None]  # waits so many seconds


class RouterReports(Protocol):
    """The embedded router's reports of SSH logins. SSHPiper sends none."""

    def listening(self) -> AbstractContextManager[ReceiveReports]:
        """Receive the reports until the end of the block, instead of every other process. Raises
        `Unavailable`."""


class Leadership(Protocol):
    """The right to run the reaper. Of all processes on one database, one at a time has it. Raises
    `DatabaseUnavailable`."""

    def acquire(self) -> bool:
        """Try to become the leader, and return whether this process leads now."""

    def held(self) -> bool:
        """Whether this process still leads."""

    def release(self) -> None: ...
    def tick(self) -> None:
        """Record that the leader has finished a tick."""

    def last_tick(self) -> datetime | None:
        """Return when the leader, in any process, last finished a tick; None before the first."""

    def leader(self) -> str | None:
        """Return the name of the leading process, on any machine; None if there is no leader."""
