"""The schemas of request bodies and queries. An unknown field is an error."""

from datetime import UTC
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate

from gateway.domain import ssh_keys, users

_LARGEST_ID = 2**63 - 1  # of a database row
_DEFAULT_TTL_MINUTES = 60
_LONGEST_KEY = 20000  # characters; an RSA key of 16384 bits takes 2,800


def _user_id(value: str) -> None:
    if problem := users.problem_with(value):
        raise ValidationError(problem)


class WholeNumber(fields.Integer):
    """A JSON integer. Strings, 1.0 and `true`, which Python treats as 1, are invalid."""

    def __init__(self, **options: Any) -> None:
        super().__init__(strict=True, **options)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> int:
        if isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return super()._deserialize(value, attr, data, **options)


class SessionRequest(Schema):
    """Body of `POST /sessions`."""

    user_id = fields.String(
        required=True,
        validate=_user_id,
        metadata={"pattern": f"^{users.USER_ID.pattern}$", "example": "user123"},
    )
    ttl_minutes = WholeNumber(load_default=_DEFAULT_TTL_MINUTES)
    mig_profile = fields.String(load_default=None, validate=validate.Length(1, 64))
    ssh_public_keys = fields.List(
        fields.String(validate=validate.Length(max=_LONGEST_KEY)),
        load_default=None,
        validate=validate.Length(1, ssh_keys.MAX_KEYS),
    )

    def __init__(self, max_ttl_minutes: int) -> None:
        super().__init__()
        limit = validate.Range(1, max_ttl_minutes, error="Must be between {min} and {max} minutes.")
        self.fields["ttl_minutes"].validators = [limit]
        self.fields["ttl_minutes"].load_default = min(_DEFAULT_TTL_MINUTES, max_ttl_minutes)


class KeysRequest(Schema):
    """Body of `PUT /users/{id}/keys` and `PUT /sessions/{id}/keys`."""

    ssh_public_keys = fields.List(
        fields.String(validate=validate.Length(max=_LONGEST_KEY)),
        required=True,
        validate=validate.Length(max=ssh_keys.MAX_KEYS),
    )


class FitRequest(Schema):
    """Query of `GET /gpus/fit`."""

    profile = fields.String(required=True, validate=validate.Length(1, 64))


def _text(value: str) -> None:
    """JSON can encode a lone surrogate, which is not valid Unicode and which no database stores."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValidationError("Not valid Unicode.") from None


class CordonRequest(Schema):
    """Optional body of `PUT /gpus/{index}/cordon`."""

    reason = fields.String(load_default="", validate=[validate.Length(max=200), _text])


class EventsRequest(Schema):
    """Query of `GET /events`."""

    session_id = fields.String(load_default=None, validate=validate.Length(1, 36))
    user_id = fields.String(load_default=None, validate=validate.Length(1, 32))
    since = fields.AwareDateTime(load_default=None, default_timezone=UTC)
    after = fields.Integer(load_default=None, validate=validate.Range(0, _LARGEST_ID))
    limit = fields.Integer(load_default=100, validate=validate.Range(1, 1000))
