"""The schemas of request bodies and queries. An unknown field is an error."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from marshmallow import EXCLUDE, Schema, ValidationError, fields, validate
from werkzeug.routing import IntegerConverter, UnicodeConverter
from werkzeug.routing import ValidationError as NoMatch

from gateway.domain import ssh_keys, users
from gateway.domain.usage import By
from gateway.domain.webhooks import Format

_LARGEST_ID = 2**63 - 1  # of a database row
_DIGITS = re.compile(r"-?[0-9]{1,19}")
_EPOCH = datetime.fromtimestamp(0, UTC)
_CURSOR = re.compile(r"([0-9]{1,17})\.([0-9A-Za-z-]{1,36})")
_LONGEST_KEY = 20000  # characters; an RSA key of 16384 bits takes 2,800


def _user_id(value: str) -> None:
    if problem := users.problem_with(value):
        raise ValidationError(problem)


def _group(value: str) -> None:
    if problem := users.problem_with_group(value):
        raise ValidationError(problem)


class WholeNumber(fields.Integer):
    """A JSON integer. Strings, 1.0 and `true`, which Python treats as 1, are invalid."""

    def __init__(self, **options: Any) -> None:
        super().__init__(strict=True, **options)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> int:
        if isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return super()._deserialize(value, attr, data, **options)


def _text(value: str) -> None:
    """JSON can encode a lone surrogate, which is no Unicode, and NUL, which PostgreSQL does not store."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValidationError("Not valid Unicode.") from None
    if "\0" in value:
        raise ValidationError("Must not contain the character NUL.")


class Flag(fields.Boolean):
    """A JSON boolean. Strings and numbers are invalid."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return value


_LONGEST_WAIT_MINUTES = 10080


class SessionRequest(Schema):
    """Body of `POST /sessions`."""

    user_id = fields.String(
        required=True,
        validate=_user_id,
        metadata={"pattern": f"^{users.USER_ID.pattern}$", "example": "user123"},
    )
    ttl_minutes = WholeNumber(load_default=None, allow_none=False)
    mig_profile = fields.String(load_default=None, validate=validate.Length(1, 64))
    ssh_public_keys = fields.List(
        fields.String(validate=validate.Length(max=_LONGEST_KEY)),
        load_default=None,
        validate=validate.Length(1, ssh_keys.MAX_KEYS),
    )

    wait_minutes = WholeNumber(
        load_default=0,
        validate=validate.Range(0, _LONGEST_WAIT_MINUTES, error="Must be between {min} and {max} minutes."),
    )
    override = Flag(load_default=False)
    image = fields.String(load_default=None, validate=[validate.Length(1, 64), _text])

    def __init__(self, max_ttl_minutes: int) -> None:
        super().__init__()
        self.fields["ttl_minutes"].validators = [_lease(max_ttl_minutes)]


def _lease(max_ttl_minutes: int) -> validate.Range:
    return validate.Range(1, max_ttl_minutes, error="Must be between {min} and {max} minutes.")


class Minutes(WholeNumber):
    """A whole number of minutes, or "max" for as many as possible, which loads as None."""

    def __init__(self, low: int, high: int, **options: Any) -> None:
        super().__init__(
            error_messages={"invalid": 'Use a whole number of minutes, or "max".'},
            metadata={"type": ["integer", "string"], "pattern": "^max$", "minimum": low, "maximum": high},
            **options,
        )
        self._range = validate.Range(low, high, error="Must be between {min} and {max} minutes.")

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> Any:
        if value == "max":
            return None
        minutes = super()._deserialize(value, attr, data, **options)
        self._range(minutes)
        return minutes


class Instant(fields.AwareDateTime):
    """A time that is still one in UTC: year 1 and year 9999 end a few hours earlier elsewhere."""

    def __init__(self, **options: Any) -> None:
        wrong = "Not a time: use one such as 2025-01-17T08:00:00Z."
        messages: dict[str, Any] = {"invalid": wrong, "format": wrong}
        super().__init__(default_timezone=UTC, error_messages=messages, **options)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> datetime:
        moment = super()._deserialize(value, attr, data, **options)
        try:
            return moment.astimezone(UTC)
        except OverflowError:
            raise ValidationError("Must be between the years 1 and 9999 in UTC.") from None


class ExtensionRequest(Schema):
    """Body of `POST /sessions/{id}/extend`."""

    minutes = Minutes(1, 5256000, required=True)
    ends = Instant(load_default=None)
    override = Flag(load_default=False)


class KeysRequest(Schema):
    """Body of `PUT /users/{id}/keys` and `PUT /sessions/{id}/keys`."""

    ssh_public_keys = fields.List(
        fields.String(validate=validate.Length(max=_LONGEST_KEY)),
        required=True,
        validate=validate.Length(max=ssh_keys.MAX_KEYS),
    )


class PathNumber(IntegerConverter):
    """A number in a path, in ASCII digits: werkzeug's own takes digits of every script."""

    regex = "[0-9]{1,9}"


class PathText(UnicodeConverter):
    """A part of a path. It has no NUL, which PostgreSQL does not store and so never finds."""

    def to_python(self, value: str) -> str:
        if "\0" in value:
            raise NoMatch
        return value


class QueryNumber(fields.Integer):
    """A number in ASCII digits. Python's own `int` takes digits of every script, spaces and `_`."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> int:
        if not _DIGITS.fullmatch(str(value)):
            raise self.make_error("invalid", input=value)
        return super()._deserialize(value, attr, data, **options)


class SessionCursor(fields.Field[tuple[datetime, str]]):
    """Where a page of sessions begins: `next` of the page before. Loads `created_at` and id of a session."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> tuple[datetime, str]:
        if not (found := _CURSOR.fullmatch(str(value))):
            raise ValidationError("Must be `next` of another page.")
        return _EPOCH + timedelta(microseconds=int(found[1])), found[2]

    @staticmethod
    def of(created_at: datetime, session_id: str) -> str:
        return f"{(created_at - _EPOCH) // timedelta(microseconds=1)}.{session_id}"


class Paged(Schema):
    """Query of a list. Without `limit` the list is whole. Other parameters are ignored, as they were before
    there were pages."""

    class Meta:
        unknown = EXCLUDE

    limit = QueryNumber(load_default=None, validate=validate.Range(1, 1000))


class PageRequest(Paged):
    """Query of a list whose pages begin after a number."""

    after = QueryNumber(load_default=None, validate=validate.Range(0, _LARGEST_ID))


class QueueRequest(PageRequest):
    """Query of `GET /queue`."""

    user_id = fields.String(load_default=None, validate=_user_id)


class GpusRequest(PageRequest):
    """Query of `GET /gpus`."""

    node = fields.String(load_default=None, validate=validate.Length(1, 253))


class SessionsRequest(Paged):
    """Query of `GET /sessions`."""

    after = SessionCursor(load_default=None)
    user_id = fields.String(load_default=None, validate=_user_id)


class FitRequest(Schema):
    """Query of `GET /gpus/fit`."""

    profile = fields.String(required=True, validate=validate.Length(1, 64))
    ttl_minutes = QueryNumber(load_default=None)

    def __init__(self, max_ttl_minutes: int) -> None:
        super().__init__()
        self.fields["ttl_minutes"].validators = [_lease(max_ttl_minutes)]


_PRIORITY = validate.Range(-1000, 1000, error="Must be between {min} and {max}.")


class PriorityRequest(Schema):
    """Body of `PUT /queue/{id}`."""

    priority = WholeNumber(required=True, validate=_PRIORITY)


class MessageRequest(Schema):
    """Body of `POST /sessions/{id}/message`. An empty text takes the last message away."""

    text = fields.String(required=True, validate=[validate.Length(max=500), _text])


class EndRequest(Schema):
    """Optional body of `DELETE /sessions/{id}`. The user reads the note."""

    note = fields.String(load_default="", validate=[validate.Length(max=500), _text])


class CordonRequest(Schema):
    """Optional body of `PUT /gpus/{gpu}/cordon`."""

    reason = fields.String(load_default="", validate=[validate.Length(max=200), _text])
    starts_at = Instant(data_key="from", load_default=None)


class KeepRequest(Schema):
    """Body of `POST /sessions/{id}/keep`. 0 takes the last one back."""

    minutes = WholeNumber(required=True, validate=validate.Range(0, 525600))


class JsonNumber(fields.Float):
    """A JSON number. Strings and booleans are invalid."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.make_error("invalid", input=value)
        return super()._deserialize(value, attr, data, **options)


def _minutes_rule() -> WholeNumber:
    return WholeNumber(load_default=None, allow_none=True, validate=validate.Range(1, 5256000))


class PolicyRequest(Schema):
    """Body of `PUT /policies/{name}`. A rule that is null or left out does not hold."""

    default_ttl_minutes = _minutes_rule()
    max_ttl_minutes = _minutes_rule()
    max_lease_minutes = _minutes_rule()
    profiles = fields.List(
        fields.String(validate=[validate.Length(1, 64), _text]),
        load_default=None,
        allow_none=True,
        validate=validate.Length(max=100),
    )
    images = fields.List(
        fields.String(validate=[validate.Length(1, 64), _text]),
        load_default=None,
        allow_none=True,
        validate=validate.Length(max=100),
    )
    gpu_hours_per_week = JsonNumber(load_default=None, allow_none=True, validate=validate.Range(0, 1000000))
    idle_minutes = WholeNumber(load_default=None, allow_none=True, validate=validate.Range(0, 525600))
    max_keep_hours = WholeNumber(load_default=None, allow_none=True, validate=validate.Range(0, 8760))
    priority = WholeNumber(load_default=None, allow_none=True, validate=_PRIORITY)
    max_wait_minutes = WholeNumber(
        load_default=None, allow_none=True, validate=validate.Range(0, _LONGEST_WAIT_MINUTES)
    )
    may_start = Flag(load_default=None, allow_none=True)


class WebhookRequest(Schema):
    """Body of `PUT /webhooks/{name}`."""

    url = fields.String(required=True, validate=[validate.Length(1, 2000), _text])
    events = fields.List(
        fields.String(validate=[validate.Length(1, 100), _text]),
        required=True,
        validate=validate.Length(1, 50),
    )
    format = fields.String(
        load_default=Format.STANDARD.value, validate=validate.OneOf([each.value for each in Format])
    )


class DeliveriesRequest(Schema):
    """Query of `GET /webhooks/{name}/deliveries`."""

    limit = QueryNumber(load_default=100, validate=validate.Range(1, 1000))


class Day(fields.Date):
    """A day of the calendar."""

    def __init__(self, **options: Any) -> None:
        super().__init__(error_messages={"invalid": "Not a day: use one such as 2025-01-17."}, **options)


class UsageRequest(Schema):
    """Query of `GET /usage`. Both days are included."""

    since = Day(load_default=None)
    until = Day(load_default=None)
    by = fields.String(load_default=By.USER.value, validate=validate.OneOf([each.value for each in By]))


class UserRequest(Schema):
    """Body of `PUT /users/{id}`."""

    group = fields.String(
        load_default=None, allow_none=True, validate=_group, metadata={"pattern": f"^{users.GROUP.pattern}$"}
    )
    email = fields.Email(load_default=None, allow_none=True, validate=[validate.Length(max=254), _text])


class UsersRequest(Schema):
    """Query of `GET /users`: the users after this name."""

    after = fields.String(load_default="", validate=[validate.Length(max=32), _text])
    limit = QueryNumber(load_default=100, validate=validate.Range(1, 1000))


class EventsRequest(Schema):
    """Query of `GET /events`."""

    session_id = fields.String(load_default=None, validate=[validate.Length(1, 36), _text])
    user_id = fields.String(load_default=None, validate=[validate.Length(1, 32), _text])
    since = Instant(load_default=None)
    after = QueryNumber(load_default=None, validate=validate.Range(0, _LARGEST_ID))
    limit = QueryNumber(load_default=100, validate=validate.Range(1, 1000))
