"""Attacks on this gateway with two temporary sessions, a victim's and an attacker's.

The attacker attacks from inside its own session, and from outside.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from gateway.client import Client
from gateway.database_url import DatabaseUrl
from gateway.doctor.attack.catalogue import ENDED, OUTSIDE
from gateway.doctor.attack.from_outside import Outside, attack_after_the_end, attack_from_outside
from gateway.doctor.attack.ground import Ground, LiveSession
from gateway.doctor.attack.outcome import Outcome, Verdict
from gateway.doctor.attack.probe import Probe, Targets, judge
from gateway.errors import GatewayError, Unavailable
from gateway.repositories.sql import schema

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

    def __init__(self, ground: Ground, victim: LiveSession, attacker: LiveSession, targets: Targets) -> None:
        self.victim = victim
        self.attacker = attacker
        self._ground = ground
        self._targets = targets
        self._deadline = time.monotonic() + _TOTAL_SECONDS

    def attempt(self, probe: Probe) -> Outcome:
        if reason := self._ground.untried.get(probe.attempt):
            return Outcome(Verdict.UNTRIED, reason)
        if (remaining := self._deadline - time.monotonic()) < 1:
            return Outcome(Verdict.UNCLEAR, "there was no time left to try it")
        if probe.attempt == "memory_hog" and self._targets.memory_mib > _LARGEST_HOG_MIB:
            return Outcome(Verdict.UNTRIED, "the limit is too large to be reached in time")
        limit = ["timeout", "--signal=KILL", str(min(_ATTEMPT_SECONDS, round(remaining)))]
        try:
            done = self._ground.run(self.attacker, [*limit, *probe.command(self._targets)])
        except GatewayError as error:
            return Outcome(Verdict.UNCLEAR, str(error))
        return judge(*done)

    def log_is_bounded(self) -> Outcome:
        """After `flood_log`: whether Docker dropped most of the log."""
        kept = self._ground.log_size(self.attacker) / 2**20
        bounded = kept < _MAX_KEPT_LOG * self._targets.log_mib
        evidence = f"Docker kept {kept:.0f} of {self._targets.log_mib} MiB"
        return Outcome(Verdict.STOPPED if bounded else Verdict.THROUGH, evidence)

    def processes(self) -> int:
        """Of the attacker's session, also after its end."""
        return self._ground.processes(self.attacker)


def attack(
    client: Client,
    db: DatabaseUrl,
    ground: Ground,
    outside: Outside,
    probes: Sequence[Probe],
    tried: Callable[[], None] = lambda: None,
) -> list[Attempt]:
    """Run all probes from outside and the given ones from inside, and call `tried` after each.

    Raises `GatewayError` if the gateway cannot open two sessions or cannot close them again.
    """
    outcomes: dict[str, Outcome] = {}
    with arena(client, db, ground) as sessions:
        with outside.attacker(sessions.victim, sessions.attacker) as attacker:
            from_outside = attack_from_outside(attacker, tried)

        def run(probe: Probe) -> None:
            outcomes[probe.name] = sessions.attempt(probe)
            tried()

        with ThreadPoolExecutor(_CONCURRENT, "attack") as pool:
            list(pool.map(run, [probe for probe in probes if not probe.alone]))
        for probe in (probe for probe in probes if probe.alone):
            run(probe)
            if probe.attempt == "flood_log" and _is_judged_outside(probe, ground, outcomes):
                outcomes[probe.name] = sessions.log_is_bounded()
        processes = sessions.processes()
    for probe in probes:
        if probe.attempt == "linger" and _is_judged_outside(probe, ground, outcomes):
            outcomes[probe.name] = _survival(processes, sessions.processes(), outcomes[probe.name])
    before = from_outside["SSH with another user's key"]
    from_outside[ENDED.name] = attack_after_the_end(attacker, before)
    tried()
    return [
        *(Attempt("inside", probe.name, probe.tries, outcomes[probe.name]) for probe in probes),
        *(Attempt("outside", probe.name, probe.tries, from_outside[probe.name]) for probe in OUTSIDE),
    ]


def _is_judged_outside(probe: Probe, ground: Ground, outcomes: Mapping[str, Outcome]) -> bool:
    """Whether the attempt ran, and could not see itself whether it was stopped."""
    return probe.attempt not in ground.untried and outcomes[probe.name].verdict is Verdict.UNTRIED


@contextmanager
def arena(client: Client, db: DatabaseUrl, ground: Ground) -> Iterator[Arena]:
    schema.require_current(db)
    with _session(client, VICTIM, ground) as victim, _session(client, ATTACKER, ground) as attacker:
        yield Arena(ground, victim, attacker, ground.targets(victim, attacker))


@contextmanager
def _session(client: Client, user_id: str, ground: Ground) -> Iterator[LiveSession]:
    """Open a session, and close it at the end and remove its workspace."""
    session = client.ask("POST", "/sessions", {"user_id": user_id, "ttl_minutes": _LEASE_MINUTES})
    try:
        yield session
    finally:
        try:
            _close(client, user_id, session["session_id"])
        except GatewayError as error:
            raise Unavailable(
                f"The session of {user_id} could not be closed ({error}). Its lease ends within "
                f"{_LEASE_MINUTES} minutes; {ground.remains(user_id)}."
            ) from error
        ground.remove_home(user_id)


def _close(client: Client, user_id: str, session_id: str) -> None:
    client.ask("DELETE", f"/sessions/{session_id}")
    deadline = time.monotonic() + _CLOSING_SECONDS
    while client.ask("GET", f"/sessions?user_id={user_id}")["sessions"]:
        if time.monotonic() > deadline:
            raise Unavailable("it is still closing; `gateway doctor` reports why")
        time.sleep(0.5)


def _survival(before: int, after: int, started: Outcome) -> Outcome:
    if not before:
        return started  # this process cannot see the session's processes
    if after:
        return Outcome(Verdict.THROUGH, f"{after} of its processes still run after the session")
    return Outcome(Verdict.STOPPED, "no process runs after the session")
