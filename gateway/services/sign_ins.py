"""Signs people in to the web pages: an API token is exchanged for a secret that the browser keeps."""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import timedelta

from gateway.domain.audit import Action
from gateway.domain.clock import Clock
from gateway.domain.models import Event, SignIn
from gateway.domain.permissions import Caller, Role
from gateway.errors import Unauthenticated
from gateway.services.ports import Database
from gateway.services.tokens import Tokens

LIFETIME = timedelta(hours=12)


@dataclass(frozen=True)
class SignIns:
    database: Database
    tokens: Tokens
    clock: Clock

    def sign_in(self, token: str) -> str:
        """Return the browser's secret, valid for `LIFETIME`. Only its hash is stored.

        Raises `Unauthenticated` unless the token is valid."""
        caller = self.tokens.identify(token)
        if caller is None:
            raise Unauthenticated(given=True)
        secret, now = secrets.token_urlsafe(32), self.clock().wall
        with self.database.begin() as rows:
            rows.forget_sign_ins(now)
            rows.add_sign_in(SignIn(hash=_hash(secret), token=caller.name, until=now + LIFETIME))
            rows.record(Event.of(now, Action.SIGNED_IN, caller.name, user_id=caller.user_id))
        return secret

    def sign_out(self, secret: str) -> None:
        """Make the secret invalid. An unknown one is no error."""
        with self.database.begin() as rows:
            rows.remove_sign_in(_hash(secret))

    def identify(self, secret: str) -> Caller | None:
        """Return who signed in; None if the secret is unknown or too old, or if the token is not valid any
        more."""
        now = self.clock().wall
        token = self.database.token_of_sign_in(_hash(secret), now)
        if token is None or not token.is_valid(now):
            return None
        return Caller(token.name, Role(token.role), token.user_id)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
