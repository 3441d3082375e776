"""Creates, lists, revokes and identifies API tokens.

A token has 256 random bits, so it is stored as a plain SHA-256 hash: an attacker cannot guess it even with a
fast hash, and a slow one would delay every request. Secret scanners recognise a leaked token by its prefix.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from gateway.domain import users
from gateway.domain.audit import RESERVED, Action
from gateway.domain.clock import Clock
from gateway.domain.models import Event, Token
from gateway.domain.permissions import Caller, Role
from gateway.errors import GatewayError, InvalidRequest
from gateway.services.ports import Database

PREFIX = "gsg_"
_SECRET = re.compile(re.escape(PREFIX) + r"[A-Za-z0-9_-]{43}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_USE_IS_NOTED_EVERY = timedelta(minutes=1)  # otherwise every request would write to the database


@dataclass(frozen=True)
class Tokens:
    database: Database
    clock: Clock

    def create(
        self, name: str, role: Role, user_id: str | None = None, expires_at: datetime | None = None
    ) -> str:
        """Create a token and return it. Only its hash is stored. Raises `InvalidRequest`."""
        now = self.clock().wall.replace(microsecond=0)
        if not _NAME.fullmatch(name):
            raise InvalidRequest(
                f"{name!r} cannot be a token's name: use 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-'."
            )
        if name in RESERVED:
            raise InvalidRequest(
                f"{name!r} is the name of the gateway itself in the audit log: choose another name."
            )
        if (role == Role.USER) != (user_id is not None):
            raise InvalidRequest(
                "A token of role user needs --user, and no other role may have it: correct --role or --user."
            )
        if user_id is not None and (problem := users.problem_with(user_id)):
            raise InvalidRequest(f"--user: {problem}")
        if expires_at is not None and expires_at <= now:
            raise InvalidRequest("--expires: this time is in the past: give a later one.")
        secret = PREFIX + secrets.token_urlsafe(32)
        with self.database.begin() as rows:
            if rows.token(name):
                raise InvalidRequest(f"There is, or was, a token {name!r}: choose another name.")
            rows.add_token(
                Token(
                    name=name,
                    role=role,
                    user_id=user_id,
                    hash=_hash(secret),
                    created_at=now,
                    expires_at=expires_at,
                )
            )
            rows.record(Event.of(now, Action.TOKEN_CREATED, f"{name}, role {role}", user_id=user_id))
        return secret

    def list(self) -> Sequence[Token]:
        with self.database.read() as rows:
            return rows.tokens()

    def revoke(self, name: str) -> None:
        """Revoke a token, at once, in every worker. A second call is no error. Raises `InvalidRequest`."""
        with self.database.begin() as rows:
            token = rows.token(name)
            if token is None:
                raise InvalidRequest(f"There is no token {name!r}; `gateway token list` names them.")
            if token.revoked_at is None:
                token.revoked_at = self.clock().wall
                rows.record(Event.of(token.revoked_at, Action.TOKEN_REVOKED, name, user_id=token.user_id))

    @contextmanager
    def lend(self, name: str, role: Role, user_id: str | None, expires_at: datetime | None) -> Iterator[str]:
        """Yield a token that is valid in the block. Afterwards only the audit log has a record of it."""
        self._forget(name)  # left by a process that was killed in the block
        secret = self.create(name, role, user_id, expires_at)
        try:
            yield secret
        finally:
            self._forget(name)

    def _forget(self, name: str) -> None:
        with self.database.begin() as rows:
            if token := rows.token(name):
                rows.remove_token(token)
                rows.record(Event.of(self.clock().wall, Action.TOKEN_REVOKED, name, user_id=token.user_id))

    def any(self) -> bool:
        """Whether a token was ever created. Revoked ones count: without any token, access needs none."""
        return self.database.has_tokens()

    def identify(self, secret: str) -> Caller | None:
        """Return the caller of a token; None if the token is unknown, expired or revoked."""
        if not _SECRET.fullmatch(secret):
            return None
        now, hashed = self.clock().wall, _hash(secret)
        token = self.database.token_of_hash(hashed)
        if token is None or not hmac.compare_digest(token.hash, hashed) or not token.is_valid(now):
            return None
        if token.used_at is None or now - token.used_at >= _USE_IS_NOTED_EVERY:
            with (
                suppress(GatewayError),
                self.database.begin() as rows,
            ):  # a full disk refuses no caller
                rows.note_use(token.name, now)
        return Caller(token.name, Role(token.role), token.user_id)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
