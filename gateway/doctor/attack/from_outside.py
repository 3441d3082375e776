"""The attacks from outside: a stranger who has a session of his own, the stock ssh client and the API."""

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gateway.client import Client
from gateway.doctor.attack.catalogue import ENDED, OUTSIDE
from gateway.doctor.attack.outcome import Outcome, Verdict
from gateway.doctor.attack.outside import logins
from gateway.doctor.attack.outside.accounts import connects_as
from gateway.doctor.attack.outside.stranger import Account, Login, OutsideProbe, Stranger
from gateway.domain import ssh_keys
from gateway.domain.clock import Clock
from gateway.domain.permissions import Role
from gateway.domain.pipe import Pipe
from gateway.errors import GatewayError, Unavailable
from gateway.repositories.files.pipes import Pipes
from gateway.services.tokens import Tokens

Answer = Mapping[str, Any]  # of `POST /sessions`

_VALID, _EXPIRES = timedelta(minutes=5), timedelta(seconds=2)
_SSH_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Outside:
    """What attacks from outside are made with; `login_to` knows how to log in at the place that an answer
    names. `connects_as` is as `Stranger` has it, `wait` waits for seconds."""

    client: Client
    pipes: Pipes
    tokens: Tokens
    clock: Clock
    login_to: Callable[[Answer], Login]
    connects_as: Callable[[int, str], bool] = connects_as
    wait: Callable[[float], None] = time.sleep

    @contextmanager
    def stranger(self, victim: Answer, own: Answer) -> Iterator[Stranger]:
        """Somebody whose own session is `own`; his tokens are gone at the end."""
        with ExitStack() as lent:
            token = expired = None
            if self.client.token:
                now = self.clock().wall
                mine = Role.USER, own["ssh_user"]
                token = lent.enter_context(self.tokens.lend("doctor-user", *mine, now + _VALID))
                expired = lent.enter_context(self.tokens.lend("doctor-expired", *mine, now + _EXPIRES))
                self.wait(_EXPIRES.total_seconds())
            yield Stranger(
                victim=_account(victim),
                victim_address=self._pipe(victim["session_id"]).host,
                own=_account(own),
                ask=self.client.status,
                login=self.login_to(victim),
                another_host=lambda: self._another_host(victim["session_id"]),
                connects_as=self.connects_as,
                routed=lambda: [pipe.username for pipe in self.pipes.list()],
                token=token,
                expired=expired,
                administrators=self.client.token,
            )

    @contextmanager
    def _another_host(self, session_id: str) -> Iterator[None]:
        """The session's route expects another host key, as if another host stood at its address."""
        own = self._pipe(session_id)
        self.pipes.add(replace(own, host_key=ssh_keys.make_pair().public))
        try:
            yield
        finally:
            self.pipes.add(own)

    def _pipe(self, session_id: str) -> Pipe:
        own = next((pipe for pipe in self.pipes.list() if pipe.session_id == session_id), None)
        if own is None:
            raise Unavailable("--piper-config names a file that does not have the gateway's routes.")
        return own


def attack_from_outside(stranger: Stranger, tried: Callable[[], None]) -> dict[str, Outcome]:
    """All but what needs an ended session, by name; `tried` is called after each."""
    unreachable = _attempt(OutsideProbe("", lambda who: logins.rightful(who) or _IN), stranger)
    outcomes = {}
    for probe in OUTSIDE:
        if probe is ENDED:
            continue
        blocked = unreachable is not _IN and probe.attempt.__module__ == logins.__name__
        outcomes[probe.name] = unreachable if blocked else _attempt(probe, stranger)
        tried()
    return outcomes


def attack_after_the_end(stranger: Stranger, before: Outcome) -> Outcome:
    """What the victim's key opens now; `before`, of another login, tells whether that could be tried."""
    return before if before.verdict is Verdict.UNCLEAR else _attempt(ENDED, stranger)


_IN = Outcome(Verdict.UNTRIED, "the rightful user gets in")


def _attempt(probe: OutsideProbe, stranger: Stranger) -> Outcome:
    try:
        return probe.attempt(stranger)
    except GatewayError as error:
        return Outcome(Verdict.UNCLEAR, str(error))


def _account(answer: Answer) -> Account:
    if not answer.get("ssh_private_key"):
        raise Unavailable(
            f"There are stored keys of {answer['ssh_user']}, a user that is the doctor's own: withdraw them."
        )
    return Account(answer["ssh_user"], answer["session_id"], answer["ssh_private_key"])


def login_with_ssh(answer: Answer) -> Login:
    """The stock client at the entry point that the answer names. Raises `Unavailable` where there is none."""

    def login(user: str, private_key: str, *options: str) -> tuple[int, str]:
        with TemporaryDirectory(prefix="gateway-doctor-") as name:
            key, known = Path(name) / "key", Path(name) / "known_hosts"
            key.touch(mode=0o600)
            key.write_text(private_key)
            known.write_text(f"{answer['ssh_known_hosts'] or ''}\n")
            command = [*_command(answer, key, known), *options, "-l", user, "--", answer["ssh_host"], "true"]
            try:
                done = subprocess.run(
                    command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SSH_SECONDS
                )
            except FileNotFoundError:
                raise Unavailable("The ssh client is missing here: install openssh-client.") from None
            except subprocess.TimeoutExpired:
                raise Unavailable(f"ssh had no answer within {_SSH_SECONDS} s.") from None
        return done.returncode, done.stderr.decode(errors="replace")

    return login


def _command(answer: Answer, key: Path, known: Path) -> list[str]:
    options = {
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "BatchMode": "yes",
        "ControlPath": "none",
        "ConnectTimeout": "10",
        "GlobalKnownHostsFile": "/dev/null",
        "UserKnownHostsFile": str(known),
        "StrictHostKeyChecking": "yes" if answer["ssh_known_hosts"] else "no",
    }
    told = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    return ["ssh", "-F", "none", "-i", str(key), "-p", str(answer["ssh_port"]), *told]
