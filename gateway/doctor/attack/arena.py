"""Attacks on this gateway, by two sessions that are made for it and taken away again: from inside the one
at the other, and from outside by somebody who has the one and wants the other."""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.client import Client
from gateway.database_url import DatabaseUrl
from gateway.doctor.attack.catalogue import ENDED, OUTSIDE
from gateway.doctor.attack.from_outside import Outside, attack_after_the_end, attack_from_outside
from gateway.doctor.attack.outcome import Outcome, Verdict
from gateway.doctor.attack.probe import Probe, Targets, judge
from gateway.doctor.attack.targets import targets
from gateway.errors import GatewayError, Unavailable
from gateway.repositories.docker.exec import Inside
from gateway.repositories.sql import schema
from gateway.repositories.sql.database import SqlDatabase
from gateway.settings import Settings

VICTIM, ATTACKER = "doctor-victim", "doctor-attacker"
_LEASE_MINUTES = 5  # should the doctor be killed, they end by themselves
_PATIENCE_SECONDS = 90.0  # for all attempts together
_ATTEMPT_SECONDS = 25  # Docker is asked for no answer that takes 30
_AT_ONCE = 4
_CLOSING_SECONDS = 30.0
_LARGEST_HOG_MIB = 24 * 1024  # more cannot be filled in that time
_LOG_IS_BOUND = 0.5  # of what was written, at most so much is kept


@dataclass(frozen=True, slots=True)
class Attempt:
    """`origin`: inside a session, or outside."""

    origin: str
    name: str
    tries: str
    outcome: Outcome

    @property
    def failed(self) -> bool:
        """As an attack must."""
        return self.outcome.verdict in (Verdict.STOPPED, Verdict.UNTRIED)


class Arena:
    """Two live sessions: `attempt` runs a probe inside the one, aimed at the other and at the host."""

    def __init__(
        self, inside: Inside, victim: dict[str, Any], attacker: dict[str, Any], aims: Targets
    ) -> None:
        self.victim = victim
        self.attacker = attacker
        self.container_id: str = attacker["container_id"]
        self._inside = inside
        self._aims = aims
        self._deadline = time.monotonic() + _PATIENCE_SECONDS

    def attempt(self, probe: Probe) -> Outcome:
        if (left := self._deadline - time.monotonic()) < 1:
            return Outcome(Verdict.UNCLEAR, "there was no time left to try it")
        if probe.attempt == "memory_hog" and self._aims.memory_mib > _LARGEST_HOG_MIB:
            return Outcome(Verdict.UNTRIED, "the limit is larger than what can be filled in time")
        limit = ["timeout", "--signal=KILL", str(min(_ATTEMPT_SECONDS, round(left)))]
        try:
            done = self._inside.run(self.container_id, [*limit, *probe.command(self._aims)])
        except GatewayError as error:
            return Outcome(Verdict.UNCLEAR, str(error))
        return judge(*done)

    def log_is_bounded(self) -> Outcome:
        """After `flood_log`: what Docker kept of it."""
        kept = self._inside.log_size(self.container_id) / 2**20
        bounded = kept < _LOG_IS_BOUND * self._aims.log_mib
        said = f"{kept:.0f} of {self._aims.log_mib} MiB were kept"
        return Outcome(Verdict.STOPPED if bounded else Verdict.THROUGH, said)


def attack(
    client: Client,
    settings: Settings,
    inside: Inside,
    outside: Outside,
    probes: Sequence[Probe],
    tried: Callable[[], None] = lambda: None,
) -> list[Attempt]:
    """All probes from outside and those given from inside; `tried` is called after each. Raises what the
    gateway says when it has no room for two sessions, and when they cannot be taken away again."""
    outcomes: dict[str, Outcome] = {}
    with arena(client, settings, inside) as place:
        with outside.stranger(place.victim, place.attacker) as stranger:
            from_outside = attack_from_outside(stranger, tried)

        def run(probe: Probe) -> None:
            outcomes[probe.name] = place.attempt(probe)
            tried()

        with ThreadPoolExecutor(_AT_ONCE, "attack") as pool:
            list(pool.map(run, [probe for probe in probes if not probe.alone]))
        for probe in (probe for probe in probes if probe.alone):
            run(probe)
            if probe.attempt == "flood_log" and outcomes[probe.name].verdict is Verdict.UNTRIED:
                outcomes[probe.name] = place.log_is_bounded()
        lived = _processes_of(place.container_id)
    for probe in probes:
        if probe.attempt == "linger":
            outcomes[probe.name] = _survival(lived, _processes_of(place.container_id), outcomes[probe.name])
    before = from_outside["SSH with another user's key"]
    from_outside[ENDED.name] = attack_after_the_end(stranger, before)
    tried()
    return [
        *(Attempt("inside", probe.name, probe.tries, outcomes[probe.name]) for probe in probes),
        *(Attempt("outside", probe.name, probe.tries, from_outside[probe.name]) for probe in OUTSIDE),
    ]


@contextmanager
def arena(client: Client, settings: Settings, inside: Inside) -> Iterator[Arena]:
    schema.require_current(settings.db)
    with (
        _session(client, VICTIM, settings.workspace_root) as victim,
        _session(client, ATTACKER, settings.workspace_root) as attacker,
    ):
        aims = targets(settings, VICTIM, _address(settings.db, victim["session_id"]))
        yield Arena(inside, victim, attacker, aims)


@contextmanager
def _session(client: Client, user_id: str, workspaces: Path) -> Iterator[dict[str, Any]]:
    """Gone at the end with its workspace, whatever happens; the users' names are the doctor's alone."""
    session = client.ask("POST", "/sessions", {"user_id": user_id, "ttl_minutes": _LEASE_MINUTES})
    try:
        yield session
    finally:
        try:
            _end(client, session["session_id"])
        except GatewayError as error:
            raise Unavailable(
                f"{user_id}'s session could not be taken away ({error}). Its lease ends within "
                f"{_LEASE_MINUTES} minutes; remove {workspaces / user_id} then."
            ) from error
        shutil.rmtree(workspaces / user_id, ignore_errors=True)


def _end(client: Client, session_id: str) -> None:
    client.ask("DELETE", f"/sessions/{session_id}")
    deadline = time.monotonic() + _CLOSING_SECONDS
    while session_id in {live["session_id"] for live in client.ask("GET", "/sessions")["sessions"]}:
        if time.monotonic() > deadline:
            raise Unavailable("it is still closing; `gateway doctor` says why")
        time.sleep(0.5)


def _address(db: DatabaseUrl, session_id: str) -> str:
    # not a looking engine: one in the process would keep SQLite from writing here, as lent tokens need
    with SqlDatabase(db).read() as rows:
        session = rows.get(session_id)
    if session is None or session.address is None:
        raise Unavailable("The gateway that answers has another database than --db (GATEWAY_DB) names.")
    return session.address


def _processes_of(container_id: str) -> int:
    """Its processes stay in its control group, whatever becomes of their parents and their names."""
    found = 0
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended since
            found += container_id in (process / "cgroup").read_text()
    return found


def _survival(before: int, after: int, started: Outcome) -> Outcome:
    if started.verdict is not Verdict.UNTRIED or not before:
        return started  # it was not started, or the sessions' processes cannot be seen from here
    if after:
        return Outcome(Verdict.THROUGH, f"{after} of its processes live on after the session")
    return Outcome(Verdict.STOPPED, "no process is left after the session")
