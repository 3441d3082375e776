"""Attacks on this gateway with two temporary sessions, a victim's and an attacker's.

The attacker attacks from inside its own session, and from outside.
"""

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
_LEASE_MINUTES = 5  # if the doctor is killed, the sessions end by themselves
_TOTAL_SECONDS = 90.0  # for all attempts together
_ATTEMPT_SECONDS = 25  # below the timeout of calls to Docker, which is 30
_CONCURRENT = 4
_CLOSING_SECONDS = 30.0
_LARGEST_HOG_MIB = 24 * 1024  # more cannot be filled within the time
_MAX_KEPT_LOG = 0.5  # share of the written log that Docker may keep


@dataclass(frozen=True, slots=True)
class Attempt:
    """`origin` is `inside` or `outside` of a session."""

    origin: str
    name: str
    tries: str
    outcome: Outcome

    @property
    def failed(self) -> bool:
        """Whether the attack failed, as it must."""
        return self.outcome.verdict in (Verdict.STOPPED, Verdict.UNTRIED)


class Arena:
    """Two live sessions. `attempt` runs a probe inside the attacker's, against the victim's and the host."""

    def __init__(
        self, inside: Inside, victim: dict[str, Any], attacker: dict[str, Any], targets: Targets
    ) -> None:
        self.victim = victim
        self.attacker = attacker
        self.container_id: str = attacker["container_id"]
        self._inside = inside
        self._targets = targets
        self._deadline = time.monotonic() + _TOTAL_SECONDS

    def attempt(self, probe: Probe) -> Outcome:
        if (remaining := self._deadline - time.monotonic()) < 1:
            return Outcome(Verdict.UNCLEAR, "there was no time left to try it")
        if probe.attempt == "memory_hog" and self._targets.memory_mib > _LARGEST_HOG_MIB:
            return Outcome(Verdict.UNTRIED, "the limit is too large to be reached in time")
        limit = ["timeout", "--signal=KILL", str(min(_ATTEMPT_SECONDS, round(remaining)))]
        try:
            done = self._inside.run(self.container_id, [*limit, *probe.command(self._targets)])
        except GatewayError as error:
            return Outcome(Verdict.UNCLEAR, str(error))
        return judge(*done)

    def log_is_bounded(self) -> Outcome:
        """After `flood_log`: whether Docker dropped most of the log."""
        kept = self._inside.log_size(self.container_id) / 2**20
        bounded = kept < _MAX_KEPT_LOG * self._targets.log_mib
        evidence = f"Docker kept {kept:.0f} of {self._targets.log_mib} MiB"
        return Outcome(Verdict.STOPPED if bounded else Verdict.THROUGH, evidence)


def attack(
    client: Client,
    settings: Settings,
    inside: Inside,
    outside: Outside,
    probes: Sequence[Probe],
    tried: Callable[[], None] = lambda: None,
) -> list[Attempt]:
    """Run all probes from outside and the given ones from inside, and call `tried` after each.

    Raises `GatewayError` if the gateway cannot open two sessions or cannot close them again.
    """
    outcomes: dict[str, Outcome] = {}
    with arena(client, settings, inside) as sessions:
        with outside.attacker(sessions.victim, sessions.attacker) as attacker:
            from_outside = attack_from_outside(attacker, tried)

        def run(probe: Probe) -> None:
            outcomes[probe.name] = sessions.attempt(probe)
            tried()

        with ThreadPoolExecutor(_CONCURRENT, "attack") as pool:
            list(pool.map(run, [probe for probe in probes if not probe.alone]))
        for probe in (probe for probe in probes if probe.alone):
            run(probe)
            if probe.attempt == "flood_log" and outcomes[probe.name].verdict is Verdict.UNTRIED:
                outcomes[probe.name] = sessions.log_is_bounded()
        processes = _processes_of(sessions.container_id)
    for probe in probes:
        if probe.attempt == "linger":
            remaining = _processes_of(sessions.container_id)
            outcomes[probe.name] = _survival(processes, remaining, outcomes[probe.name])
    before = from_outside["SSH with another user's key"]
    from_outside[ENDED.name] = attack_after_the_end(attacker, before)
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
        victim_address = _address(settings.db, victim["session_id"])
        memory_bytes = inside.memory_limit(attacker["container_id"])
        found = targets(settings, VICTIM, victim["session_id"], victim_address, memory_bytes)
        yield Arena(inside, victim, attacker, found)


@contextmanager
def _session(client: Client, user_id: str, workspaces: Path) -> Iterator[dict[str, Any]]:
    """Open a session, and close it at the end and delete its workspace.

    Only the doctor uses these user ids, so the workspace holds no one's data.
    """
    session = client.ask("POST", "/sessions", {"user_id": user_id, "ttl_minutes": _LEASE_MINUTES})
    try:
        yield session
    finally:
        try:
            _close(client, session["session_id"])
        except GatewayError as error:
            raise Unavailable(
                f"The session of {user_id} could not be closed ({error}). Its lease ends within "
                f"{_LEASE_MINUTES} minutes; then remove {workspaces / user_id}."
            ) from error
        shutil.rmtree(workspaces / user_id, ignore_errors=True)


def _close(client: Client, session_id: str) -> None:
    client.ask("DELETE", f"/sessions/{session_id}")
    deadline = time.monotonic() + _CLOSING_SECONDS
    while session_id in {live["session_id"] for live in client.ask("GET", "/sessions")["sessions"]}:
        if time.monotonic() > deadline:
            raise Unavailable("it is still closing; `gateway doctor` reports why")
        time.sleep(0.5)


def _address(db: DatabaseUrl, session_id: str) -> str:
    # Not a read-only engine: in this process it would keep SQLite from writing, which temporary tokens need.
    with SqlDatabase(db).read() as rows:
        session = rows.get(session_id)
    if session is None or session.address is None:
        raise Unavailable("--db (GATEWAY_DB) is not the database of the gateway at --url: set both alike.")
    return session.address


def _processes_of(container_id: str) -> int:
    """Count the processes of a container by their control group, which they cannot leave."""
    found = 0
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):  # the process has ended meanwhile
            found += container_id in (process / "cgroup").read_text()
    return found


def _survival(before: int, after: int, started: Outcome) -> Outcome:
    if started.verdict is not Verdict.UNTRIED or not before:
        return started  # it did not start, or this process cannot see the session's processes
    if after:
        return Outcome(Verdict.THROUGH, f"{after} of its processes still run after the session")
    return Outcome(Verdict.STOPPED, "no process runs after the session")
