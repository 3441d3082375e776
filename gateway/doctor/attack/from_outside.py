"""The attacks from outside: by an attacker with a session of its own, an ssh client and the API."""

import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
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
from gateway.doctor.attack.outside.attacker import Account, Attacker, Login, OutsideProbe
from gateway.doctor.attack.targets import host_addresses
from gateway.domain import ssh_keys
from gateway.domain.clock import Clock
from gateway.domain.permissions import Role
from gateway.domain.pipe import Pipe
from gateway.errors import GatewayError, Unavailable
from gateway.services.ports import Pipes
from gateway.services.tokens import Tokens

CreatedSession = Mapping[str, Any]  # the response of `POST /sessions`

_VALID, _EXPIRES = timedelta(minutes=5), timedelta(seconds=2)
_SSH_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Outside:
    """The means of the attacks. `login_to` returns a login function for the entry point of a session.

    `connects_as` and `connected_from_proxy` are described at `Attacker`. `wait` waits for some seconds. A
    router knows a changed route after `route_seconds`.
    """

    client: Client
    pipes: Pipes
    tokens: Tokens
    clock: Clock
    login_to: Callable[[CreatedSession], Login]
    connects_as: Callable[[int, str], bool] | None = connects_as
    connected_from_proxy: Callable[[Collection[str]], Sequence[str]] | None = None
    wait: Callable[[float], None] = time.sleep
    route_seconds: float = 0.0

    @contextmanager
    def attacker(self, victim: CreatedSession, own: CreatedSession) -> Iterator[Attacker]:
        """Return an attacker whose own session is `own`. The attacker's tokens are deleted at the end."""
        with ExitStack() as tokens:
            token = expired = None
            if self.client.token:
                now = self.clock().wall
                user = Role.USER, own["ssh_user"]
                token = tokens.enter_context(self.tokens.lend("doctor-user", *user, now + _VALID))
                expired = tokens.enter_context(self.tokens.lend("doctor-expired", *user, now + _EXPIRES))
                self.wait(_EXPIRES.total_seconds())
            yield Attacker(
                victim=_account(victim),
                victim_address=self._pipe(victim["session_id"]).host,
                own=_account(own),
                ask=self.client.status,
                login=self.login_to(victim),
                changed_host_key=lambda: self._changed_host_key(victim["session_id"]),
                connects_as=self.connects_as,
                connected_from_proxy=self.connected_from_proxy,
                hosts=host_addresses(Path("/proc/net")),
                routed=lambda: [pipe.username for pipe in self.pipes.list()],
                token=token,
                expired=expired,
                admin_token=self.client.token,
            )

    @contextmanager
    def _changed_host_key(self, session_id: str) -> Iterator[None]:
        """Let the session's route expect another host key, as if another machine had the address."""
        pipe = self._pipe(session_id)
        self._publish(replace(pipe, host_key=ssh_keys.make_pair().public))
        try:
            yield
        finally:
            self._publish(pipe)

    def _publish(self, pipe: Pipe) -> None:
        self.pipes.update(lambda: pipe)
        self.wait(self.route_seconds)

    def _pipe(self, session_id: str) -> Pipe:
        pipe = next((pipe for pipe in self.pipes.list() if pipe.session_id == session_id), None)
        if pipe is None:
            raise Unavailable("The routes are not those of the gateway at --url: set --piper-config alike.")
        return pipe


def attack_from_outside(attacker: Attacker, tried: Callable[[], None]) -> dict[str, Outcome]:
    """Run every probe that needs live sessions, and return the outcomes by name. Calls `tried` after each."""
    owner = _attempt(OutsideProbe("", lambda by: logins.owner_cannot_log_in(by) or _LOGGED_IN), attacker)
    outcomes = {}
    for probe in OUTSIDE:
        if probe is ENDED:
            continue
        pointless = owner is not _LOGGED_IN and probe.attempt.__module__ == logins.__name__
        outcomes[probe.name] = owner if pointless else _attempt(probe, attacker)
        tried()
    return outcomes


def attack_after_the_end(attacker: Attacker, before: Outcome) -> Outcome:
    """Try the victim's key after the session's end. `before` is the outcome of an earlier login.

    If that one was unclear, this one is too.
    """
    return before if before.verdict is Verdict.UNCLEAR else _attempt(ENDED, attacker)


_LOGGED_IN = Outcome(Verdict.UNTRIED, "the owner of the session can log in")


def _attempt(probe: OutsideProbe, attacker: Attacker) -> Outcome:
    try:
        return probe.attempt(attacker)
    except GatewayError as error:
        return Outcome(Verdict.UNCLEAR, str(error))


def _account(session: CreatedSession) -> Account:
    user = session["ssh_user"]
    if not session.get("ssh_private_key"):
        raise Unavailable(
            f"The doctor's user {user} has stored keys: remove them with `gateway keys {user} --remove`."
        )
    return Account(user, session["session_id"], session["ssh_private_key"])


def login_with_ssh(session: CreatedSession) -> Login:
    """Return a function that logs in with OpenSSH's client. It raises `Unavailable` if there is no client."""

    def login(user: str, private_key: str, *options: str) -> tuple[int, str]:
        with TemporaryDirectory(prefix="gateway-doctor-") as name:
            key, known = Path(name) / "key", Path(name) / "known_hosts"
            key.touch(mode=0o600)
            key.write_text(private_key)
            known.write_text(f"{session['ssh_known_hosts'] or ''}\n")
            command = [
                *_command(session, key, known),
                *options,
                "-l",
                user,
                "--",
                session["ssh_host"],
                "true",
            ]
            try:
                done = subprocess.run(
                    command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SSH_SECONDS
                )
            except FileNotFoundError:
                raise Unavailable("The ssh client is not installed: install openssh-client.") from None
            except subprocess.TimeoutExpired:
                raise Unavailable(f"ssh received no response within {_SSH_SECONDS} s.") from None
        return done.returncode, done.stderr.decode(errors="replace")

    return login


def _command(session: CreatedSession, key: Path, known: Path) -> list[str]:
    options = {
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "BatchMode": "yes",
        "ControlPath": "none",
        "ConnectTimeout": "10",
        "GlobalKnownHostsFile": "/dev/null",
        "UserKnownHostsFile": str(known),
        "StrictHostKeyChecking": "yes" if session["ssh_known_hosts"] else "no",
    }
    flags = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    return ["ssh", "-F", "none", "-i", str(key), "-p", str(session["ssh_port"]), *flags]
