"""/gpus: allocations and free capacity of the host's GPUs, and cordons."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

from flask import Blueprint
from flask.typing import ResponseReturnValue

from gateway.api.authorisation import own_user
from gateway.api.endpoints import Fields, describes
from gateway.api.pages import page
from gateway.api.requests import CordonRequest, FitRequest, GpusRequest
from gateway.api.responses import FitResponse, GpuResponse, GpusResponse, ProfileResponse, ProfilesResponse
from gateway.api.services import services
from gateway.domain.availability import Availability
from gateway.domain.leased import SessionColumns
from gateway.domain.mig import Gpu, Profile
from gateway.domain.occupancy import Occupancy
from gateway.domain.placement import Fit, Occupied
from gateway.domain.waiting import Reservation

routes = Blueprint("gpus", __name__, url_prefix="/gpus")

_gpu_response, _profile_response = GpuResponse(), ProfileResponse(many=True)
_fit_response = FitResponse()


@routes.get("")
@describes({200: GpusResponse}, query=GpusRequest, problems=(422,))
def list_gpus(query: Fields) -> ResponseReturnValue:
    """List the GPUs with their GPU instances; with `node`, those of one node of a cluster. `after` is an
    index; with `limit`, `next` is the `after` of the next page."""
    available, owner = services().gpus.availability(), own_user()
    after = -1 if query["after"] is None else query["after"]
    gpus = [
        gpu for gpu in available.occupancy.gpus if gpu.index > after and query["node"] in (None, gpu.node)
    ]

    def show(gpu: Gpu) -> Fields:
        return {**_gpu_response.dump(_gpu(gpu, available, owner))}

    return page("gpus", gpus, query["limit"], show, lambda gpu: gpu.index)


@routes.get("/profiles")
@describes({200: ProfilesResponse})
def list_profiles() -> ResponseReturnValue:
    """List the MIG profiles: how many are in use and free for a session of the default length, and when the
    next one is."""
    available = services().gpus.availability(user_id=own_user())
    offers = available.occupancy.offers().values()
    described = [_profile(gpu, profile, available) for gpu, profile in offers]
    described.sort(key=lambda offer: (offer["compute_slices"], offer["memory_mib"], offer["name"]))
    return {"profiles": _profile_response.dump(described)}


def _fit_request() -> FitRequest:
    return FitRequest(services().max_ttl_minutes)


@routes.get("/fit")
@describes({200: FitResponse}, query=_fit_request, problems=(422,))
def fit(query: Fields) -> ResponseReturnValue:
    """Whether a session of a profile can begin now; if not, when, and which sessions are in the slice."""
    minutes, owner = query["ttl_minutes"], own_user()
    lease = None if minutes is None else timedelta(minutes=minutes)
    available = services().gpus.availability(lease, owner)
    profile = available.occupancy.offered(query["profile"])
    return {**_fit_response.dump(_fit(profile, available, owner))}


@routes.put("/<path:gpu>/cordon")
@describes({204: None}, optional_body=CordonRequest, problems=(404, 422, 507))
def cordon(given: Fields, gpu: str) -> ResponseReturnValue:
    """Keep new sessions off a GPU, at once or from a time on. `gpu` is its label or its UUID."""
    services().gpus.cordon(gpu, given["reason"], given["starts_at"])
    return "", 204


@routes.delete("/<path:gpu>/cordon")
@describes({204: None}, problems=(404, 422, 507))
def uncordon(gpu: str) -> ResponseReturnValue:
    """Allow new sessions on a GPU again. `gpu` is its label or its UUID."""
    services().gpus.uncordon(gpu)
    return "", 204


def _gpu(gpu: Gpu, available: Availability, owner: str | None) -> dict[str, Any]:
    occupancy = available.occupancy
    occupied = occupancy.occupied_of.get(gpu.uuid, ())
    scheduled = occupancy.scheduled.get(gpu.uuid)
    return {
        "index": gpu.index,
        "node": gpu.node,
        "label": gpu.label,
        "uuid": gpu.uuid,
        "name": gpu.name,
        "memory_mib": gpu.memory_mib,
        "mig_mode": gpu.mig_mode,
        "memory_slices": {
            "total": gpu.memory_slices,
            "used": sum(piece.placement.size for piece in occupied),
        },
        "instances": list(_instances(gpu, occupied, available, owner)),
        "promised": [_promised(reservation) for reservation in available.promised(gpu.uuid)],
        "healthy": gpu.fault is None,
        "cordoned": gpu.uuid in occupancy.cordons,
        "cordoned_from": scheduled.starts_at if scheduled else None,
        "reason": occupancy.why_closed(gpu),
        "simulated": gpu.simulated,
        "leased_whole": gpu.is_whole,
    }


def _instances(
    gpu: Gpu, occupied: Sequence[Occupied], available: Availability, owner: str | None
) -> Iterator[dict[str, Any]]:
    """Existing and reserved GPU instances, lowest start first; with `owner`, other users are redacted. A
    cluster does not say the UUID of a MIG device; the session's row does."""
    existing = {instance.placement: instance.mig_uuid for instance in gpu.instances}
    whole = gpu.uuid if gpu.is_whole else None
    for piece in sorted(occupied, key=lambda piece: piece.placement):
        session = available.sessions.get(piece.session_id or "")
        named = session if session and owner in (None, session.user_id) else None
        yield {
            "gpu_uuid": existing.get(piece.placement) or whole or (session.gpu_uuid if session else None),
            "profile": piece.profile,
            "start": piece.placement.start,
            "size": piece.placement.size,
            "session_id": named.id if named else None,
            "owner": "gateway" if session and not session.borrowed else "other",
            "user_id": named.user_id if named else None,
            "status": session.status if session else None,
            "expires_at": session.expires_at if session else None,
            "idle_since": named.idle_since if named else None,
            "problem": named.problem if named else None,
        }


def _promised(reservation: Reservation) -> dict[str, Any]:
    return {
        "profile": reservation.slice.profile,
        "start": reservation.slice.placement.start,
        "size": reservation.slice.placement.size,
        "promised_at": reservation.start,
    }


def _fit(profile: str, available: Availability, owner: str | None) -> dict[str, Any]:
    fit, occupancy = available.fit(profile), available.occupancy
    found = {"profile": profile, "in_line": len(available.line.waiters)}
    if fit is None:
        return {**found, "fits": False, "now": None, "at": None, "waits_for": []}
    fits = not fit.waits_for and fit.at <= available.line.now.wall
    return {
        **found,
        "fits": fits,
        "now": _place(fit, occupancy) if fits else None,
        "at": fit.at,
        "waits_for": [
            _waited_for(available.sessions[str(piece.session_id)], owner) for piece in fit.waits_for
        ],
    }


def _waited_for(session: SessionColumns, owner: str | None) -> dict[str, Any]:
    """With `owner`, other users are redacted."""
    named = owner in (None, session.user_id)
    return {
        "session_id": session.id if named else None,
        "user_id": session.user_id if named else None,
        "expires_at": session.expires_at,
    }


def _place(fit: Fit, occupancy: Occupancy) -> dict[str, Any]:
    index = next(gpu.index for gpu in occupancy.gpus if gpu.uuid == fit.gpu_uuid)
    return {
        "gpu_index": index,
        "gpu_uuid": fit.gpu_uuid,
        "start": fit.placement.start,
        "size": fit.placement.size,
    }


def _profile(gpu: Gpu, profile: Profile, free: Availability) -> dict[str, Any]:
    occupancy, available = free.occupancy, free.available(profile.name)
    fit = None if available else free.fit(profile.name)
    return {
        "name": profile.name,
        "compute_slices": profile.compute_slices,
        "memory_mib": profile.memory_mib,
        "total": occupancy.capacity(profile.name),
        "in_use": sum(session.mig_profile == profile.name for session in occupancy.sessions),
        "available": available,
        "next_available_at": fit.at if fit else None,
        "description": _describe(gpu, profile),
    }


# Typical uses, by the largest share of a GPU's compute slices.
_USES = (
    (1 / 6, "light development, tests"),
    (1 / 3, "mid-sized training"),
    (1 / 2, "ordinary deep-learning work"),
    (2 / 3, "large-model inference"),
    (1.0, "large training and inference"),
)


def _describe(gpu: Gpu, profile: Profile) -> str:
    if gpu.is_whole:
        return f"a whole GPU without MIG, {profile.memory_mib} MiB"
    share = profile.compute_slices / gpu.compute_slices
    use = next(use for limit, use in _USES if share <= limit)
    return f"{profile.compute_slices} of {gpu.compute_slices} compute slices, {profile.memory_mib} MiB: {use}"
