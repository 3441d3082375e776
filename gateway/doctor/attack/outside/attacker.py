"""The attacker from outside: known accounts, tokens, and ways to reach the gateway."""

import inspect
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from gateway.doctor.attack.outcome import Outcome

Login = Callable[..., tuple[int, str]]  # (user, private key, *options) -> exit code and stderr of ssh


class Ask(Protocol):
    """Send a request with a token or without one, and return the status of the response."""

    def __call__(self, method: str, path: str, body: object = None, token: str | None = None) -> int: ...


@dataclass(frozen=True, slots=True)
class Account:
    """A user, the user's session and the private key that opens it."""

    user_id: str
    session_id: str
    private_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attacker:
    """`own` is the attacker's session, `victim` another user's.

    `token` is the attacker's token of role `user`, `expired` an expired one, and `admin_token` the token of
    the doctor itself. All three are None if the API needs no token yet. `changed_host_key` makes the victim's
    route expect another host key for the duration of the block. `connects_as` says whether an account of the
    host, by its uid, can connect to the sshd at an address; None on a cluster. `connected_from_proxy` returns
    those of some targets, each as `ADDRESS PORT`, that accept a connection from the egress proxy; None
    without a proxy. `hosts` are the addresses of the host.
    """

    victim: Account
    victim_address: str
    own: Account
    ask: Ask
    login: Login
    changed_host_key: Callable[[], AbstractContextManager[None]]
    connects_as: Callable[[int, str], bool] | None
    connected_from_proxy: Callable[[Collection[str]], Sequence[str]] | None
    hosts: Sequence[str]
    routed: Callable[[], list[str]]  # the users whom the pipe file routes now
    token: str | None
    expired: str | None
    admin_token: str | None


@dataclass(frozen=True, slots=True)
class OutsideProbe:
    name: str
    attempt: Callable[[Attacker], Outcome]

    @property
    def tries(self) -> str:
        """Return what the attempt tries, as a sentence."""
        return inspect.getdoc(self.attempt) or self.name
