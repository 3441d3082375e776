"""What the services need from outside: a database, a host for sessions, SSH routes, leadership.

The classes under `repositories` fill these ports; `app` puts them together.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import Protocol

from gateway.domain.board import Board
from gateway.domain.clock import Moment
from gateway.domain.mig import Gpu
from gateway.domain.models import Cordon, EndedSession, Event, Session, Token, User
from gateway.domain.observation import Observation
from gateway.domain.pipe import Pipe
from gateway.domain.plan import Allocation, Endings, SessionPlan, SessionRequest, Started
from gateway.domain.recovery import Survivor

Check = Callable[[], str]  # one line about a part; raises GatewayError when the part is not ready


class Rows(Protocol):
    """The verbs of one transaction over the database's rows."""

    def add(self, session: Session) -> None: ...
    def get(self, session_id: str) -> Session | None: ...
    def live(self, session_id: str, owner: str | None = None) -> Session: ...
    def of_user(self, user_id: str) -> Session | None: ...
    def list(self) -> Sequence[Session]: ...
    def expired(self, now: Moment) -> Sequence[Session]: ...
    def ending(self, now: Moment, within: timedelta) -> Sequence[Session]: ...
    def next_expiry(self, now: Moment) -> timedelta | None: ...
    def user(self, user_id: str, free_uids: Iterable[int] | None = None) -> User: ...
    def has_user(self, user_id: str) -> bool: ...
    def uids(self) -> Mapping[str, int]: ...
    def assign_uid(self, user_id: str, uid: int) -> None: ...
    def deployment_id(self) -> str: ...
    def public_keys(self, user_id: str) -> Sequence[str]: ...
    def to_measure(self, since: datetime, above: int) -> Sequence[str]: ...
    def end(self, session: Session, now: datetime) -> EndedSession: ...
    def get_ended(self, session_id: str) -> EndedSession | None: ...
    def last_ended(self, user_id: str) -> EndedSession | None: ...
    def forget(self, before: datetime) -> None: ...
    def record_request(self, user_id: str, mig_profile: str, now: datetime) -> None: ...
    def demand(self) -> Mapping[str, int]: ...
    def cordons(self) -> Mapping[str, Cordon]: ...
    def cordon(self, gpu: str, reason: str, now: datetime) -> None: ...
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
    def token_of_hash(self, hashed: str) -> Token | None: ...
    def note_use(self, name: str, now: datetime) -> None: ...


class Database(Protocol):
    """Hands out transactions; raises `DatabaseUnavailable`, `DiskFull`."""

    def begin(self) -> AbstractContextManager[Rows]: ...
    def read(self) -> AbstractContextManager[Rows]: ...
    def check(self) -> None: ...


class Pipes(Protocol):
    """The pipe file; raises `PipesUnavailable`, `DiskFull`."""

    def update(self, wanted: Callable[[], Pipe | None]) -> None: ...
    def remove(self, session_id: str) -> None: ...
    def list(self) -> Sequence[Pipe]: ...
    def replace(self, wanted: Callable[[], Iterable[Pipe]]) -> None: ...
    def routed_elsewhere(self, users: Iterable[str]) -> set[str]: ...
    def check(self) -> None: ...


class Planner(Protocol):
    """Decides where a session goes. It asks nobody, so it may be called inside a transaction."""

    def plan(
        self,
        request: SessionRequest,
        live: Sequence[Session],
        cordons: Mapping[str, Cordon],
        demand: Mapping[str, float],
        refused: Sequence[Allocation] = (),
    ) -> SessionPlan:
        """`live` are all sessions with a row; `demand` counts how often each profile was asked for; `refused`
        are allocations that the host could not make. Raises `NoCapacity` and `UnknownProfile`."""


class Host(Protocol):
    """Where sessions run: one server, or a cluster. Removing what is already gone succeeds everywhere."""

    def list_gpus(self) -> list[Gpu]:
        """Every GPU with its instances; raises `DriverUnavailable`."""

    def planner(self) -> Planner:
        """A planner over the host as it is now; raises `DriverUnavailable`. Call it outside transactions."""

    def start(self, plan: SessionPlan) -> Started:
        """Make everything that `plan` names; return when the session accepts SSH and sees its slice.

        Undoes nothing: the caller has the plan on record and calls `stop`. Raises `Unavailable`, `DiskFull`.
        """

    def stop(self, session_id: str, allocation: Allocation | None) -> None:
        """Remove the session's container, then its slice."""

    def forget(self, session_id: str) -> None:
        """Remove the session's files, last of all: the claim on the session is one of them."""

    def show(self, session_id: str, wanted: Callable[[], Board | None]) -> None:
        """Show the user what `wanted` returns: at each login from now on, and to programs as a file.

        `wanted` is called while nobody else can change what is shown, so what it reads is still true; with
        None nothing changes. Raises `Unavailable`, `DiskFull`; a session that is over is no error."""

    def shows(self, session_id: str, expected: Board) -> bool:
        """Whether the user is shown exactly this already."""

    def tell(self, session: Session, text: str) -> int:
        """Write `text` to every terminal of the session, and return the number of terminals. A terminal that
        is stopped or full is left out. Raises `Unavailable`."""

    def run_hook(self, session: Session, seconds_left: int) -> bool:
        """Start the user's own program for the end of the lease. Return False if there is none, or if it ran
        for this lease already. Raises `Unavailable`."""

    def signal(self, session: Session) -> int:
        """Ask the user's programs to end, and return their number. Shells, terminal multiplexers and SSH
        connections go on. Raises `Unavailable`."""

    def disconnect(self, session_id: str) -> None:
        """Close every SSH connection into the session; the user's programs go on."""

    def repair(self, session_id: str) -> None:
        """Restore what `observe` called repairable of a session that goes on."""

    def observe(self, sessions: Sequence[Session]) -> Observation:
        """What became of `sessions`, which were read before, and what else the host holds. A part that cannot
        be asked is named in the answer, and never raised."""

    def survivors(self) -> Sequence[Survivor]:
        """Every session container of this network, whichever database it was opened with, described by the
        host alone; raises `DockerUnavailable`."""

    def workspace_owners(self) -> Mapping[str, int]:
        """The users who have a workspace, and the uid that owns it."""

    def free_uids(self, user_id: str, assigned: Collection[int]) -> Sequence[int]:
        """Uids that a new user may get, the best one first: the owner of the user's workspace if there is
        one, then some of the range. No account of the host has one of them, and none owns another user's
        workspace. Call it outside transactions."""

    def account_of(self, uid: int) -> str | None:
        """The account or group of the host that has this number too; None if there is none."""

    def endings(self) -> Endings:
        """Follow the ends of session containers from now on."""

    def claim(self, session_id: str) -> AbstractContextManager[None]:
        """Hold the session while it is opened or removed; the claim ends with the process."""

    def is_claimed(self, session_id: str) -> bool | None:
        """Whether somebody holds the claim; None when that cannot be known here."""

    def ensure(self) -> None:
        """Make again what all sessions share, such as their network; raises the first failure."""

    def checks(self) -> Mapping[str, Check]:
        """One check for each part of the host."""

    def has_quotas(self) -> bool:
        """Whether the file system itself enforces the workspace quota."""

    def workspace_used(self, user_id: str) -> int:
        """The size of the user's workspace, in bytes."""


class Leadership(Protocol):
    """One process at a time has it, among all that share a database; raises `DatabaseUnavailable`."""

    def acquire(self) -> bool:
        """Whether this process leads from now on."""

    def held(self) -> bool:
        """Whether it still does."""

    def release(self) -> None: ...
    def tick(self) -> None:
        """The leader has looked."""

    def last_tick(self) -> datetime | None:
        """When the leader, in whichever process, last looked; None before the first time."""

    def leader(self) -> str | None:
        """Who leads, wherever it runs; None: nobody."""
