"""The shapes of requests and answers."""

from datetime import UTC
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate

from gateway import keys, users

_LARGEST_ID = 2**63 - 1  # that a database counts to
_LONGEST_KEY = 20000  # characters; an RSA key of 16384 bits takes 2,800


class UtcTime(fields.DateTime):
    """`2025-01-17T08:00:00Z`, whole seconds."""

    def __init__(self, **options: Any) -> None:
        super().__init__(format="%Y-%m-%dT%H:%M:%SZ", **options)


def _user_id(value: str) -> None:
    if problem := users.problem_with(value):
        raise ValidationError(problem)


class WholeNumber(fields.Integer):
    """A JSON integer; not a string, not 1.0 and not `true`, which Python takes for 1."""

    def __init__(self, **options: Any) -> None:
        super().__init__(strict=True, **options)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> int:
        if isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return super()._deserialize(value, attr, data, **options)


class SessionRequest(Schema):
    """Body of `POST /sessions`."""

    user_id = fields.String(required=True, validate=_user_id)
    ttl_minutes = WholeNumber(load_default=60)
    mig_profile = fields.String(load_default=None, validate=validate.Length(1, 64))
    ssh_public_keys = fields.List(
        fields.String(validate=validate.Length(max=_LONGEST_KEY)),
        load_default=None,
        validate=validate.Length(1, keys.KEYS_AT_MOST),
    )

    def __init__(self, max_ttl_minutes: int) -> None:
        super().__init__()
        limit = validate.Range(1, max_ttl_minutes, error="Must be between {min} and {max} minutes.")
        self.fields["ttl_minutes"].validators = [limit]


class KeysRequest(Schema):
    """Body of `PUT /users/{id}/keys` and `PUT /sessions/{id}/keys`."""

    ssh_public_keys = fields.List(
        fields.String(validate=validate.Length(max=_LONGEST_KEY)),
        required=True,
        validate=validate.Length(max=keys.KEYS_AT_MOST),
    )


class FitRequest(Schema):
    """Query of `GET /gpus/fit`."""

    profile = fields.String(required=True, validate=validate.Length(1, 64))


def _text(value: str) -> None:
    """JSON can name half of a surrogate pair, which no text is and no database stores."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValidationError("Not valid Unicode.") from None


class CordonRequest(Schema):
    """Body of `PUT /gpus/{index}/cordon`; it may be left out."""

    reason = fields.String(load_default="", validate=[validate.Length(max=200), _text])


class EventsRequest(Schema):
    """Query of `GET /events`."""

    session_id = fields.String(load_default=None, validate=validate.Length(1, 36))
    user_id = fields.String(load_default=None, validate=validate.Length(1, 32))
    since = fields.AwareDateTime(load_default=None, default_timezone=UTC)
    after = fields.Integer(load_default=None, validate=validate.Range(0, _LARGEST_ID))
    limit = fields.Integer(load_default=100, validate=validate.Range(1, 1000))


class SessionAnswer(Schema):
    session_id = fields.String(attribute="id")
    user_id = fields.String()
    container_id = fields.String()
    gpu_uuid = fields.String()
    mig_profile = fields.String()
    status = fields.String()
    problem = fields.String()
    created_at = UtcTime()
    expires_at = UtcTime()


class EventAnswer(Schema):
    id = fields.Integer()
    at = UtcTime()
    actor = fields.String()
    what = fields.String()
    session_id = fields.String()
    user_id = fields.String()
    detail = fields.String()


class InstanceAnswer(Schema):
    gpu_uuid = fields.String()
    profile = fields.String()
    start = fields.Integer()
    size = fields.Integer()
    session_id = fields.String()
    owner = fields.String()
    user_id = fields.String()
    status = fields.String()
    expires_at = UtcTime()
    problem = fields.String()


class MemorySlices(Schema):
    total = fields.Integer()
    used = fields.Integer()


class GpuAnswer(Schema):
    index = fields.Integer()
    uuid = fields.String()
    name = fields.String()
    memory_mib = fields.Integer()
    mig_mode = fields.String()
    memory_slices = fields.Nested(MemorySlices)
    instances = fields.List(fields.Nested(InstanceAnswer))
    healthy = fields.Boolean()
    cordoned = fields.Boolean()
    reason = fields.String()
    simulated = fields.Boolean()


class ProfileAnswer(Schema):
    name = fields.String()
    compute_slices = fields.Integer()
    memory_mib = fields.Integer()
    total = fields.Integer()
    in_use = fields.Integer()
    available = fields.Integer()
    next_available_at = UtcTime()
    description = fields.String()


class PlaceAnswer(Schema):
    gpu_index = fields.Integer()
    gpu_uuid = fields.String()
    start = fields.Integer()
    size = fields.Integer()


class WaitedForAnswer(Schema):
    session_id = fields.String()
    user_id = fields.String()
    expires_at = UtcTime()


class FitAnswer(Schema):
    profile = fields.String()
    fits = fields.Boolean()
    now = fields.Nested(PlaceAnswer)
    at = UtcTime()
    waits_for = fields.List(fields.Nested(WaitedForAnswer))
