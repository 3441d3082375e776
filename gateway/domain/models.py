"""The rows of the database, and the rules that concern a single row."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    String,
    Text,
    TypeDecorator,
    false,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, validates

from gateway.domain.audit import Action, actor
from gateway.domain.clock import Moment
from gateway.domain.leased import Leased
from gateway.domain.pipe import Pipe
from gateway.domain.plan import SSH_PORT, Allocation, SessionPlan, Started
from gateway.domain.states import NEXT, KeysFrom, Reason, Status, cause


class UtcDateTime(TypeDecorator[datetime]):
    """A time in UTC. SQLite does not store time zones, so values to store must have one."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any] | None:
        """Connections to PostgreSQL return times in UTC, so to convert each again would cost much for
        nothing."""
        return None if dialect.name == "postgresql" else super().result_processor(dialect, coltype)


class Base(DeclarativeBase):
    type_annotation_map = {datetime: UtcDateTime(), list[str]: JSON()}


class User(Base):
    """A person for whom a session was made or keys were stored. No other user ever gets the uid.

    `workspace_bytes` is the size of the workspace at the last measurement, None before the first. A user is
    in at most one `group`."""

    __tablename__ = "users"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    uid: Mapped[int] = mapped_column(unique=True)
    public_keys: Mapped[list[str]] = mapped_column(default=list)
    workspace_bytes: Mapped[int | None] = mapped_column(BigInteger)
    group: Mapped[str | None] = mapped_column("user_group", String(32))
    email: Mapped[str | None] = mapped_column(String(254))


class Session(Leased, Base):
    """A live session. The row is committed before anything is made, so every part can be found from its row.

    `gpu` is the GPU's UUID, `start` and `size` the placement in memory slices. All three are None before the
    host's scheduler has chosen, and once the session certainly has no slice. `gpu_uuid` is the UUID of the
    MIG device. `address` is where the session's sshd listens, None until it is known.
    A `borrowed` slice existed before the session and outlives it. `problem` describes what is wrong with the
    session, None if nothing is. The router logs in to the session's sshd with `private_key` (OpenSSH PEM).
    `host_key` is the public key of that sshd. `public_keys` are the user's; without one, all logins fail.
    `disconnect_due`: connections that a withdrawn key may have opened must still be closed.
    The lease ends when the server has been up for `expires_uptime` seconds since the boot with the kernel's
    boot id `boot`. After another boot, `expires_at` decides. `lease_seconds` is the length of the whole
    lease; extensions added `extended_minutes` of it. `opened_at` is None until the session is active.
    The last warning was given `warned_level` minutes before the end. `warned_for`, `hook_for` and
    `signalled_for` are the `lease_seconds` for which each step before the end was done. An extension makes
    the steps due again; a change of the wall clock does not. `message` is an administrator's, or None.
    `latest_end` is the latest end that the promises to the waiting line allow, None if they allow any;
    `waited_for_by` is the request that waits for the slice, None for a maintenance. `is_unclaimed`: it was
    opened for a request that waited, and its user has not logged in yet.
    `image` is the name of the image, None if it is not known, and `image_id` is what the container was made
    from. `ended_by` is the caller who deleted the session, and `note` the caller's words about it, or None.
    `gpu_share` is the share of a GPU that the slice is, None if the profile's name must tell.
    `signals` is the last `activity.Reading`, None before the first. `idle_since` is when all signals were
    idle first, None if one is not. The user was warned of that at `idle_warned_at`, and asked for the session
    to be kept until `keep_until`.
    `max_lease_minutes` is the user's policy on the length of the lease, None if there is none.
    """

    __tablename__ = "sessions"
    __table_args__ = (
        Index("one_live_lease_per_placement", "gpu", "start", unique=True),
        Index("sessions_in_order", "created_at", "id"),
        Index(
            "sessions_that_make_room",
            "latest_end",
            postgresql_where=text("latest_end IS NOT NULL"),
            sqlite_where=text("latest_end IS NOT NULL"),
        ),
        CheckConstraint("status IN ('pending', 'active', 'closing')", name="status_is_known"),
        CheckConstraint("(status = 'closing') = (end_reason IS NOT NULL)", name="closing_has_a_reason"),
    )

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"), unique=True)
    status: Mapped[str] = mapped_column(String(8), default=Status.PENDING)
    end_reason: Mapped[str | None] = mapped_column(String(16))
    mig_profile: Mapped[str] = mapped_column(String(64))
    gpu: Mapped[str | None] = mapped_column(String(96))
    start: Mapped[int | None]
    size: Mapped[int | None]
    gpu_uuid: Mapped[str | None] = mapped_column(String(96))
    borrowed: Mapped[bool] = mapped_column(default=False, server_default=false())
    problem: Mapped[str | None] = mapped_column(Text)
    container_id: Mapped[str | None] = mapped_column(String(64))
    address: Mapped[str | None] = mapped_column(String(45), unique=True)
    public_keys: Mapped[list[str]]
    keys_from: Mapped[str] = mapped_column(String(8), default=KeysFrom.GIVEN)
    disconnect_due: Mapped[bool] = mapped_column(default=False, server_default=false())
    private_key: Mapped[str] = mapped_column(Text)
    host_key: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)
    boot: Mapped[str | None] = mapped_column(String(36))
    expires_uptime: Mapped[float | None] = mapped_column(Double)
    lease_seconds: Mapped[int] = mapped_column(default=0, server_default="0")
    extended_minutes: Mapped[int] = mapped_column(default=0, server_default="0")
    opened_at: Mapped[datetime | None]
    warned_for: Mapped[int | None]
    warned_level: Mapped[int | None]
    hook_for: Mapped[int | None]
    signalled_for: Mapped[int | None]
    message: Mapped[str | None] = mapped_column(Text)
    latest_end: Mapped[datetime | None]
    waited_for_by: Mapped[str | None] = mapped_column(String(36))
    is_unclaimed: Mapped[bool] = mapped_column(default=False, server_default=false())
    image: Mapped[str | None] = mapped_column(String(255))
    ended_by: Mapped[str | None] = mapped_column(String(80))
    note: Mapped[str | None] = mapped_column(Text)
    gpu_share: Mapped[float | None] = mapped_column(Double)
    max_lease_minutes: Mapped[int | None]
    image_id: Mapped[str | None] = mapped_column(String(255))
    signals: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    idle_since: Mapped[datetime | None]
    idle_warned_at: Mapped[datetime | None]
    keep_until: Mapped[datetime | None]

    @classmethod
    def planned(
        cls,
        plan: SessionPlan,
        *,
        image: str,
        max_lease_minutes: int | None = None,
        public_keys: Sequence[str],
        keys_from: KeysFrom,
        private_key: str,
        now: Moment,
    ) -> "Session":
        """Return the row to commit before anything is made. `private_key` is the router's. The lease begins
        at `now`."""
        request, allocation = plan.request, plan.allocation
        session = cls(
            id=request.session_id,
            user_id=request.user_id,
            status=Status.PENDING,
            mig_profile=plan.mig_profile,
            address=plan.address,
            public_keys=list(public_keys),
            keys_from=keys_from,
            private_key=private_key,
            host_key=request.host_key.public,
            image=image,
            image_id=request.image or None,
            gpu_share=plan.gpu_share,
            max_lease_minutes=max_lease_minutes,
        )
        if allocation:
            session._hold(allocation)
        session.lease_from(now, request.expires_at - request.created_at)
        return session

    @validates("status")
    def _only_forward(self, _column: str, status: Status) -> Status:
        """Check every change of the status. Raises `ValueError` if the change is not allowed."""
        if status not in NEXT[self.status]:
            raise ValueError(f"a session that is {self.status or 'new'} cannot become {status}")
        return status

    @property
    def pipe(self) -> Pipe | None:
        """The session's SSH route; None while it has no address or no public key."""
        return route_of(
            self.id, self.user_id, self.address, self.public_keys, self.private_key, self.host_key
        )

    def lease_from(self, now: Moment, ttl: timedelta) -> None:
        """Begin a lease of length `ttl`, in whole seconds, at `now`."""
        self.created_at = now.wall.replace(microsecond=0)
        self.expires_at = self.created_at + ttl
        self.lease_seconds, self.extended_minutes = round(ttl.total_seconds()), 0
        self.boot, self.expires_uptime = now.boot, (now.uptime + ttl).total_seconds()

    def extend(self, by: timedelta) -> None:
        """Move the end of the lease to a later time. `by` is in whole minutes."""
        self.expires_at += by
        self.lease_seconds += round(by.total_seconds())
        self.extended_minutes += by // timedelta(minutes=1)
        if self.expires_uptime is not None:
            self.expires_uptime += by.total_seconds()

    def follow_wall_clock(self, now: Moment) -> None:
        """If the wall clock was set, correct `expires_at`, the end of the lease that users see."""
        self.expires_at = self.ends_at(now)

    def make_room(self, latest_end: datetime | None, waited_for_by: str | None) -> None:
        """Limit extensions for the sake of the waiting line; None removes the limit."""
        self.latest_end, self.waited_for_by = latest_end, waited_for_by

    def activate(self, started: Started, now: datetime) -> None:
        """Record what the host made. A session that is closing by now stays closing."""
        if self.status != Status.CLOSING:
            self.status, self.opened_at = Status.ACTIVE, now
        self.container_id, self.address = started.container_id, started.address
        self._hold(started.allocation)

    def admit(self, public_keys: Sequence[str], keys_from: KeysFrom) -> None:
        """Accept exactly these keys, in the form that `parse_public_keys` returns. A pending session has no
        route yet, so it has no connections to close."""
        is_withdrawn = not set(self.public_keys) <= set(public_keys)
        self.disconnect_due = self.disconnect_due or (is_withdrawn and self.status != Status.PENDING)
        self.public_keys, self.keys_from = list(public_keys), keys_from

    def close(self, reason: Reason, note: str | None = None) -> None:
        """Make the session closing. Only the first reason is recorded. For a deletion, the present actor is
        recorded as well."""
        if self.status != Status.CLOSING:
            self.status, self.end_reason, self.note = Status.CLOSING, reason, note
            self.ended_by = actor.get() if reason == Reason.DELETED else None

    def forget_slice(self) -> None:
        """Record that the session certainly holds no GPU instance."""
        self.gpu = self.start = self.size = None

    def _hold(self, allocation: Allocation) -> None:
        self.gpu, self.gpu_uuid, self.borrowed = allocation.gpu, allocation.mig_uuid, allocation.borrowed
        self.start, self.size = allocation.placement.start, allocation.placement.size

    def ended(self, now: datetime) -> "EndedSession":
        """Return the record to keep once all parts are gone. Raises `ValueError` unless it is closing."""
        if self.status != Status.CLOSING:
            raise ValueError(f"a session that is {self.status} cannot end before it closes")
        return EndedSession(
            id=self.id,
            user_id=self.user_id,
            mig_profile=self.mig_profile,
            gpu_uuid=self.gpu_uuid,
            created_at=self.created_at,
            expires_at=self.expires_at,
            ended_at=now,
            reason=self.end_reason,
            opened_at=self.opened_at,
            image=self.image,
            ended_by=self.ended_by,
            note=self.note,
            gpu_share=self.gpu_share,
            public_keys=[] if self.keys_from == KeysFrom.STORED else list(self.public_keys),
        )


def route_of(
    session_id: str,
    user_id: str,
    address: str | None,
    public_keys: Sequence[str],
    private_key: str,
    host_key: str,
) -> Pipe | None:
    """The SSH route of a session with these columns; None while it has no address or no public key."""
    if address is None or not public_keys:
        return None
    return Pipe(
        session_id=session_id,
        username=user_id,
        public_keys=tuple(public_keys),
        host=address,
        port=SSH_PORT,
        private_key=private_key,
        host_key=host_key,
    )


class EndedSession(Base):
    """The record of a session that has ended: its user, profile, times, and the reason why it ended.

    `opened_at` is None if it was never active. `public_keys` are the keys that were given or made for it;
    empty if stored keys opened it."""

    __tablename__ = "ended_sessions"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    user_id: Mapped[str] = mapped_column(String(32), index=True)
    mig_profile: Mapped[str] = mapped_column(String(64))
    gpu_uuid: Mapped[str | None] = mapped_column(String(96))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    ended_at: Mapped[datetime] = mapped_column(index=True)
    reason: Mapped[str] = mapped_column(String(16))
    opened_at: Mapped[datetime | None]
    image: Mapped[str | None] = mapped_column(String(255))
    ended_by: Mapped[str | None] = mapped_column(String(80))
    note: Mapped[str | None] = mapped_column(Text)
    public_keys: Mapped[list[str]] = mapped_column(default=list, server_default="[]")
    gpu_share: Mapped[float | None] = mapped_column(Double)

    @property
    def cause(self) -> str:
        """The reason with the note, for the audit log and the API."""
        return cause(self.reason, self.note)


class ProfileRequest(Base):
    """A request for a session of a profile, granted or refused."""

    __tablename__ = "requests"
    __table_args__ = {"sqlite_autoincrement": True}

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(index=True)
    user_id: Mapped[str] = mapped_column(String(32))
    mig_profile: Mapped[str] = mapped_column(String(64))


class Cordon(Base):
    """A GPU, by its UUID, that gets no new slices because an administrator excluded it.

    Until `starts_at` it gets slices of sessions that end before; None: the cordon is in force."""

    __tablename__ = "cordons"

    gpu: Mapped[str] = mapped_column(String(96), primary_key=True)
    since: Mapped[datetime]
    reason: Mapped[str] = mapped_column(Text)
    starts_at: Mapped[datetime | None]

    def is_in_force(self, now: datetime) -> bool:
        return self.starts_at is None or self.starts_at <= now


class Event(Base):
    """One entry of the audit log: who did what, and the session or user that it concerns, if any."""

    __tablename__ = "events"
    __table_args__ = {"sqlite_autoincrement": True}  # ids are never reused: readers continue after one

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(index=True)
    actor: Mapped[str] = mapped_column(String(80))
    what: Mapped[str] = mapped_column(String(16))
    session_id: Mapped[str | None] = mapped_column(String(36), index=True)
    user_id: Mapped[str | None] = mapped_column(String(32), index=True)
    detail: Mapped[str] = mapped_column(Text)

    @classmethod
    def of(
        cls,
        now: datetime,
        what: Action,
        detail: str = "",
        *,
        session: Session | None = None,
        session_id: str | None = None,
        user_id: str | None = None,
    ) -> "Event":
        """Return an event of the current actor, to be recorded in the transaction of the act. `session` sets
        both ids."""
        return cls(
            at=now,
            actor=actor.get(),
            what=what,
            session_id=session.id if session else session_id,
            user_id=session.user_id if session else user_id,
            detail=detail,
        )


class Token(Base):
    """Who may call the API. `hash` is the token's SHA-256 in hexadecimal; revoked ones stay on record."""

    __tablename__ = "tokens"
    __table_args__ = (
        CheckConstraint("(role = 'user') = (user_id IS NOT NULL)", name="users_tokens_have_a_user"),
    )

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    role: Mapped[str] = mapped_column(String(8))
    user_id: Mapped[str | None] = mapped_column(String(32))
    hash: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    used_at: Mapped[datetime | None]

    def is_valid(self, now: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class SignIn(Base):
    """A browser that signed in to the web pages with an API token. `hash` is the SHA-256 of its cookie in
    hexadecimal."""

    __tablename__ = "sign_ins"

    hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    token: Mapped[str] = mapped_column(ForeignKey("tokens.name", ondelete="CASCADE"))
    until: Mapped[datetime] = mapped_column(index=True)


class Deployment(Base):
    """A table of one row. `deployment_id` identifies this database in the labels of its containers.

    The gateways on one PostgreSQL database share the other columns. `machine` is the Docker Engine that runs
    the sessions. `leader` is the process that runs the reaper until `lease_until`; `ticked_at` is when the
    reaper last finished a tick."""

    __tablename__ = "deployment"
    __table_args__ = (CheckConstraint("id = 1", name="one_deployment"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    deployment_id: Mapped[str] = mapped_column(String(36))
    machine: Mapped[str | None] = mapped_column(String(96))
    leader: Mapped[str | None] = mapped_column(String(96))
    lease_until: Mapped[datetime | None]
    ticked_at: Mapped[datetime | None]
