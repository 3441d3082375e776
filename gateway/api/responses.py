"""The schemas of responses."""

from datetime import datetime
from typing import Any

from marshmallow import INCLUDE, Schema, fields

OPTIONAL = "x-optional"  # marks a field that is not in every response


def utc(at: datetime) -> str:
    """`2025-01-17T08:00:00Z`, as in every response."""
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"


class UtcTime(fields.DateTime):
    """`2025-01-17T08:00:00Z`, whole seconds."""

    def __init__(self, optional: bool = False, **options: Any) -> None:
        shown: dict[str, Any] = {"pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"}
        shown |= {OPTIONAL: True} if optional else {}
        super().__init__(format="%Y-%m-%dT%H:%M:%SZ", metadata=shown, **options)


class ResponseSchema(Schema):
    """Every response has all fields, except those marked `OPTIONAL`."""


class SessionResponse(ResponseSchema):
    session_id = fields.String(attribute="id")
    user_id = fields.String()
    container_id = fields.String(allow_none=True)
    gpu_uuid = fields.String(allow_none=True)
    mig_profile = fields.String()
    status = fields.String()
    problem = fields.String(allow_none=True)
    created_at = UtcTime()
    expires_at = UtcTime(allow_none=True)
    max_expires_at = UtcTime(allow_none=True)
    opened_at = UtcTime(allow_none=True)
    extended_minutes = fields.Integer()
    image = fields.String(allow_none=True)
    note = fields.String(allow_none=True)
    ssh_user = fields.String()
    ssh_host = fields.String()
    ssh_port = fields.Integer()
    ssh_command = fields.String()
    ssh_known_hosts = fields.String(allow_none=True)
    # only while the request waits in line
    position = fields.Integer(allow_none=True, metadata={OPTIONAL: True})
    priority = fields.Integer(metadata={OPTIONAL: True})
    promised_at = UtcTime(allow_none=True, optional=True)
    wait_until = UtcTime(optional=True)


class WaitingResponse(ResponseSchema):
    session_id = fields.String(attribute="id", allow_none=True)
    user_id = fields.String(allow_none=True)
    mig_profile = fields.String()
    position = fields.Integer(allow_none=True)
    priority = fields.Integer()
    asked_at = UtcTime()
    promised_at = UtcTime(attribute="starts_at", allow_none=True)
    wait_until = UtcTime()


class QueueResponse(ResponseSchema):
    requests = fields.List(fields.Nested(WaitingResponse))
    next = fields.Integer(allow_none=True, metadata={OPTIONAL: True})


class SignalResponse(ResponseSchema):
    name = fields.String()
    state = fields.String()
    detail = fields.String()


class WaitingForResponse(ResponseSchema):
    user_id = fields.String(allow_none=True)  # for operators
    mig_profile = fields.String()
    promised_at = fields.String(allow_none=True)


class ActivityResponse(ResponseSchema):
    session_id = fields.String()
    state = fields.String()
    policy = fields.String()
    read_at = UtcTime(allow_none=True)
    idle_since = UtcTime(allow_none=True)
    ends_at = UtcTime(allow_none=True)
    keep_until = UtcTime(allow_none=True)
    expires_at = UtcTime()
    waiting = fields.Nested(WaitingForResponse, allow_none=True)  # who gains if the session ends
    signals = fields.List(fields.Nested(SignalResponse))


class OpenedResponse(SessionResponse):
    ssh_private_key = fields.String(metadata={OPTIONAL: True})  # only if the gateway made the pair


class SessionsResponse(ResponseSchema):
    sessions = fields.List(fields.Nested(SessionResponse))
    next = fields.String(allow_none=True, metadata={OPTIONAL: True})  # only with `limit`


class MessageResponse(ResponseSchema):
    terminals = fields.Integer()  # that the message was written to


class KeysResponse(ResponseSchema):
    ssh_public_keys = fields.List(fields.String())


class EventResponse(ResponseSchema):
    id = fields.Integer()
    at = UtcTime()
    actor = fields.String()
    what = fields.String()
    session_id = fields.String(allow_none=True)
    user_id = fields.String(allow_none=True)
    detail = fields.String()


class InstanceResponse(ResponseSchema):
    gpu_uuid = fields.String(allow_none=True)
    profile = fields.String()
    start = fields.Integer()
    size = fields.Integer()
    session_id = fields.String(allow_none=True)
    owner = fields.String()
    user_id = fields.String(allow_none=True)
    status = fields.String(allow_none=True)
    expires_at = UtcTime(allow_none=True)
    idle_since = UtcTime(allow_none=True)
    problem = fields.String(allow_none=True)


class MemorySlicesResponse(ResponseSchema):
    total = fields.Integer()
    used = fields.Integer()


class PromisedResponse(ResponseSchema):
    profile = fields.String()
    start = fields.Integer()
    size = fields.Integer()
    promised_at = UtcTime()


class GpuResponse(ResponseSchema):
    index = fields.Integer()
    node = fields.String(allow_none=True)
    label = fields.String()
    uuid = fields.String()
    name = fields.String()
    memory_mib = fields.Integer()
    mig_mode = fields.String()
    memory_slices = fields.Nested(MemorySlicesResponse)
    instances = fields.List(fields.Nested(InstanceResponse))
    promised = fields.List(fields.Nested(PromisedResponse))
    healthy = fields.Boolean()
    cordoned = fields.Boolean()
    cordoned_from = UtcTime(allow_none=True)
    reason = fields.String(allow_none=True)
    simulated = fields.Boolean()
    leased_whole = fields.Boolean()


class ProfileResponse(ResponseSchema):
    name = fields.String()
    compute_slices = fields.Integer()
    memory_mib = fields.Integer()
    total = fields.Integer()
    in_use = fields.Integer()
    available = fields.Integer()
    next_available_at = UtcTime(allow_none=True)
    description = fields.String()


class PlaceResponse(ResponseSchema):
    gpu_index = fields.Integer()
    gpu_uuid = fields.String()
    start = fields.Integer()
    size = fields.Integer()


class WaitedForResponse(ResponseSchema):
    session_id = fields.String(allow_none=True)
    user_id = fields.String(allow_none=True)
    expires_at = UtcTime()


class FitResponse(ResponseSchema):
    profile = fields.String()
    fits = fields.Boolean()
    now = fields.Nested(PlaceResponse, allow_none=True)
    at = UtcTime(allow_none=True)
    waits_for = fields.List(fields.Nested(WaitedForResponse))
    in_line = fields.Integer()


class UserResponse(ResponseSchema):
    user_id = fields.String(attribute="id")
    group = fields.String(allow_none=True)
    email = fields.String(allow_none=True)
    workspace_bytes = fields.Integer(allow_none=True)  # None before the first measurement
    workspace_quota_bytes = fields.Integer(allow_none=True)


class ListedUserResponse(UserResponse):
    fingerprints = fields.List(fields.String())  # of the stored keys
    gpu_hours_of_week = fields.Float()
    gpu_hours_per_week = fields.Float(allow_none=True)  # that the policy allows


class UsersResponse(ResponseSchema):
    users = fields.List(fields.Nested(ListedUserResponse))


class PolicyResponse(ResponseSchema):
    name = fields.String()
    default_ttl_minutes = fields.Integer(allow_none=True)
    max_ttl_minutes = fields.Integer(allow_none=True)
    max_lease_minutes = fields.Integer(allow_none=True)
    profiles = fields.List(fields.String(), allow_none=True)
    images = fields.List(fields.String(), allow_none=True)
    gpu_hours_per_week = fields.Float(allow_none=True)
    may_start = fields.Boolean(allow_none=True)
    idle_minutes = fields.Integer(allow_none=True)
    max_keep_hours = fields.Integer(allow_none=True)
    priority = fields.Integer(allow_none=True)
    max_wait_minutes = fields.Integer(allow_none=True)


class ImageResponse(ResponseSchema):
    name = fields.String()
    image = fields.String()
    problem = fields.String(allow_none=True)


class ImagesResponse(ResponseSchema):
    images = fields.List(fields.Nested(ImageResponse))


class PoliciesResponse(ResponseSchema):
    policies = fields.List(fields.Nested(PolicyResponse))


class RuleResponse(ResponseSchema):
    value = fields.Raw()  # as in the policy
    policy = fields.String(data_key="from")


class UserPolicyResponse(ResponseSchema):
    user_id = fields.String()
    rules = fields.Dict(fields.String(), fields.Nested(RuleResponse))
    gpu_hours_of_week = fields.Float()


class WebhookResponse(ResponseSchema):
    name = fields.String()
    url = fields.String()
    events = fields.List(fields.String())
    format = fields.String()
    created_at = UtcTime()
    disabled_at = UtcTime(allow_none=True)


class NewWebhookResponse(WebhookResponse):
    secret = fields.String()  # in no other response


class WebhooksResponse(ResponseSchema):
    webhooks = fields.List(fields.Nested(WebhookResponse))


class DeliveryResponse(ResponseSchema):
    id = fields.Integer()
    webhook = fields.String()
    event_id = fields.Integer()
    type = fields.String()
    created_at = UtcTime()
    attempts = fields.Integer()
    next_at = UtcTime(allow_none=True)
    attempted_at = UtcTime(allow_none=True)
    delivered_at = UtcTime(allow_none=True)
    status = fields.Integer(allow_none=True)
    error = fields.String(allow_none=True)


class DeliveriesResponse(ResponseSchema):
    deliveries = fields.List(fields.Nested(DeliveryResponse))


class UsageLineResponse(ResponseSchema):
    user = fields.String(allow_none=True)
    group = fields.String(allow_none=True)
    profile = fields.String(allow_none=True)
    day = fields.Date(allow_none=True)
    sessions = fields.Integer()
    lease_seconds = fields.Integer()
    gpu_seconds = fields.Float()
    idle_seconds = fields.Integer()


class UsageResponse(ResponseSchema):
    since = fields.Date()
    until = fields.Date()
    by = fields.String()
    usage = fields.List(fields.Nested(UsageLineResponse))


class EventsResponse(ResponseSchema):
    events = fields.List(fields.Nested(EventResponse))


class GpusResponse(ResponseSchema):
    gpus = fields.List(fields.Nested(GpuResponse))
    next = fields.Integer(allow_none=True, metadata={OPTIONAL: True})


class ProfilesResponse(ResponseSchema):
    profiles = fields.List(fields.Nested(ProfileResponse))


class HealthResponse(ResponseSchema):
    status = fields.String()


class ReadinessResponse(HealthResponse):
    parts = fields.Dict(fields.String(), fields.String())


class ProblemResponse(ResponseSchema):
    """RFC 9457; some problems have additional members."""

    class Meta:
        unknown = INCLUDE

    type = fields.String()
    title = fields.String()
    status = fields.Integer()
    detail = fields.String()
