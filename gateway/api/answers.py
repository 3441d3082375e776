"""The shapes of what is answered."""

from typing import Any

from marshmallow import INCLUDE, Schema, fields

OPTIONAL = "x-optional"  # of a field that is not in every answer


class UtcTime(fields.DateTime):
    """`2025-01-17T08:00:00Z`, whole seconds."""

    def __init__(self, **options: Any) -> None:
        shown = {"pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"}
        super().__init__(format="%Y-%m-%dT%H:%M:%SZ", metadata=shown, **options)


class Answer(Schema):
    """All of its fields are there, but those that are marked."""


class SessionAnswer(Answer):
    session_id = fields.String(attribute="id")
    user_id = fields.String()
    container_id = fields.String(allow_none=True)
    gpu_uuid = fields.String(allow_none=True)
    mig_profile = fields.String()
    status = fields.String()
    problem = fields.String(allow_none=True)
    created_at = UtcTime()
    expires_at = UtcTime()
    ssh_user = fields.String()
    ssh_host = fields.String()
    ssh_port = fields.Integer()
    ssh_command = fields.String()
    ssh_known_hosts = fields.String(allow_none=True)


class OpenedAnswer(SessionAnswer):
    ssh_private_key = fields.String(metadata={OPTIONAL: True})  # there once, when the gateway made the pair


class SessionsAnswer(Answer):
    sessions = fields.List(fields.Nested(SessionAnswer))


class KeysAnswer(Answer):
    ssh_public_keys = fields.List(fields.String())


class EventAnswer(Answer):
    id = fields.Integer()
    at = UtcTime()
    actor = fields.String()
    what = fields.String()
    session_id = fields.String(allow_none=True)
    user_id = fields.String(allow_none=True)
    detail = fields.String()


class InstanceAnswer(Answer):
    gpu_uuid = fields.String(allow_none=True)
    profile = fields.String()
    start = fields.Integer()
    size = fields.Integer()
    session_id = fields.String(allow_none=True)
    owner = fields.String()
    user_id = fields.String(allow_none=True)
    status = fields.String(allow_none=True)
    expires_at = UtcTime(allow_none=True)
    problem = fields.String(allow_none=True)


class MemorySlicesAnswer(Answer):
    total = fields.Integer()
    used = fields.Integer()


class GpuAnswer(Answer):
    index = fields.Integer()
    uuid = fields.String()
    name = fields.String()
    memory_mib = fields.Integer()
    mig_mode = fields.String()
    memory_slices = fields.Nested(MemorySlicesAnswer)
    instances = fields.List(fields.Nested(InstanceAnswer))
    healthy = fields.Boolean()
    cordoned = fields.Boolean()
    reason = fields.String(allow_none=True)
    simulated = fields.Boolean()


class ProfileAnswer(Answer):
    name = fields.String()
    compute_slices = fields.Integer()
    memory_mib = fields.Integer()
    total = fields.Integer()
    in_use = fields.Integer()
    available = fields.Integer()
    next_available_at = UtcTime(allow_none=True)
    description = fields.String()


class PlaceAnswer(Answer):
    gpu_index = fields.Integer()
    gpu_uuid = fields.String()
    start = fields.Integer()
    size = fields.Integer()


class WaitedForAnswer(Answer):
    session_id = fields.String(allow_none=True)
    user_id = fields.String(allow_none=True)
    expires_at = UtcTime()


class FitAnswer(Answer):
    profile = fields.String()
    fits = fields.Boolean()
    now = fields.Nested(PlaceAnswer, allow_none=True)
    at = UtcTime(allow_none=True)
    waits_for = fields.List(fields.Nested(WaitedForAnswer))


class EventsAnswer(Answer):
    events = fields.List(fields.Nested(EventAnswer))


class GpusAnswer(Answer):
    gpus = fields.List(fields.Nested(GpuAnswer))


class ProfilesAnswer(Answer):
    profiles = fields.List(fields.Nested(ProfileAnswer))


class HealthAnswer(Answer):
    status = fields.String()


class ReadinessAnswer(HealthAnswer):
    parts = fields.Dict(fields.String(), fields.String())


class ProblemAnswer(Answer):
    """RFC 9457; some problems have members of their own."""

    class Meta:
        unknown = INCLUDE

    type = fields.String()
    title = fields.String()
    status = fields.Integer()
    detail = fields.String()
