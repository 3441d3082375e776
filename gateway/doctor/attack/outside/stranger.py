"""Who attacks from outside: what he knows, what he holds, and how he reaches the gateway."""

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from gateway.doctor.attack.outcome import Outcome

Login = Callable[..., tuple[int, str]]  # of (user, private key, *options): exit code, what ssh complained of


class Ask(Protocol):
    """The status with which the API answers a request, with this token or with none."""

    def __call__(self, method: str, path: str, body: object = None, token: str | None = None) -> int: ...


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody's session, and the key that opens it."""

    user_id: str
    session_id: str
    private_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stranger:
    """`own` is a session of his, `victim` another's. `token` is his, of role user, `expired` one that has run
    out, `administrators` what the doctor itself asks with; all None where the API needs no token yet.

    `another_host` puts a session with another host key in the victim's place, until the block ends.
    `connects_as` is whether an account of the host (a uid) gets a connection to the sshd at an address.
    """

    victim: Account
    victim_address: str
    own: Account
    ask: Ask
    login: Login
    another_host: Callable[[], AbstractContextManager[None]]
    connects_as: Callable[[int, str], bool]
    routed: Callable[[], list[str]]  # whom the pipe file routes now
    token: str | None
    expired: str | None
    administrators: str | None


@dataclass(frozen=True, slots=True)
class OutsideProbe:
    name: str
    attempt: Callable[[Stranger], Outcome]

    @property
    def tries(self) -> str:
        """What it tries, in a sentence."""
        return inspect.getdoc(self.attempt) or self.name
