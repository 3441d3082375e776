"""Which sessions on the host belong to a new or restored database, and which rows they get. Pure."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from gateway.domain.clock import Moment
from gateway.domain.models import EndedSession, Session
from gateway.domain.pipe import Pipe
from gateway.domain.plan import Allocation, Started
from gateway.domain.states import KeysFrom, Reason, Status


@dataclass(frozen=True, slots=True)
class Survivor:
    """A session as the host describes it without the database.

    `deployment` is the id of the database that recorded the session; None if an older version opened it.
    `uid`, `address` and `allocation` are None if the host does not know them. `is_running` is False once the
    main process has ended.
    """

    session_id: str
    user_id: str
    container_id: str
    deployment: str | None
    created_at: datetime
    expires_at: datetime
    uid: int | None
    address: str | None
    allocation: Allocation | None
    is_running: bool

    def given_up(self, now: datetime) -> EndedSession:
        """Return the record of a session that runs without a row, and gets none."""
        return EndedSession(
            id=self.session_id,
            user_id=self.user_id,
            mig_profile=self.allocation.profile if self.allocation else "",
            created_at=self.created_at,
            expires_at=self.expires_at,
            ended_at=now,
            reason=Reason.FAILED,
            public_keys=[],
        )


@dataclass(frozen=True, slots=True)
class Remedies:
    """What an administrator can do on one kind of host: put a backup back, separate two gateways, and end
    sessions."""

    restore: str
    separate: str
    end: str


ON_A_SERVER = Remedies("`gateway restore FILE`", "--network", "`docker rm --force`")


def on_a_cluster(namespace: str) -> Remedies:
    """`namespace` is that of the sessions."""
    return Remedies(
        "pg_restore and `gateway recover`",
        "--namespace-sessions",
        f"`kubectl delete pods -n {namespace} -l app.kubernetes.io/managed-by=gpu-ssh-gateway`, but never "
        "with --grace-period=0",
    )


def foreign_sessions(survivors: Sequence[Survivor], known: Collection[str]) -> list[Survivor]:
    """Return those of another database, out of the sessions that do not name this one. `known` are the ids
    that have or had a row in it."""
    return [
        survivor
        for survivor in survivors
        if survivor.deployment is not None or survivor.session_id not in known
    ]


def row_of(survivor: Survivor, pipe: Pipe | None, now: Moment) -> Session | None:
    """Return the row of a running session, rebuilt from the host and from its route; None if they do not
    have all of the facts, or contradict each other. The lease ends at the time that the host knows."""
    if pipe is None or survivor.allocation is None or survivor.address is None or not survivor.is_running:
        return None
    if (pipe.session_id, pipe.username, pipe.host) != (
        survivor.session_id,
        survivor.user_id,
        survivor.address,
    ):
        return None
    session = Session(
        id=survivor.session_id,
        user_id=survivor.user_id,
        status=Status.PENDING,
        mig_profile=survivor.allocation.profile,
        public_keys=list(pipe.public_keys),
        keys_from=KeysFrom.GIVEN,
        private_key=pipe.private_key,
        host_key=pipe.host_key,
        created_at=survivor.created_at,
        expires_at=survivor.expires_at,
        boot=now.boot,
        lease_seconds=round((survivor.expires_at - survivor.created_at).total_seconds()),
        expires_uptime=(now.uptime + max(timedelta(), survivor.expires_at - now.wall)).total_seconds(),
    )
    session.activate(
        Started(survivor.container_id, survivor.address, survivor.allocation), survivor.created_at
    )
    return session
