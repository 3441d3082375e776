"""/gpus: what the host's GPUs hold, what they could hold and from when on, and what is kept off them."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from flask import Blueprint, request
from flask.typing import ResponseReturnValue

from gateway.api.answers import FitAnswer, GpuAnswer, GpusAnswer, ProfileAnswer, ProfilesAnswer
from gateway.api.authorisation import own_user
from gateway.api.openapi import describes
from gateway.api.requests import CordonRequest, FitRequest
from gateway.domain.mig import Gpu, Profile
from gateway.domain.models import Session
from gateway.domain.occupancy import Occupancy
from gateway.domain.placement import Fit, Occupied
from gateway.services.gpus import GpuInventory


def blueprint(pool: GpuInventory) -> Blueprint:
    routes = Blueprint("gpus", __name__, url_prefix="/gpus")
    gpu_answer, profile_answer, fit_answer = GpuAnswer(many=True), ProfileAnswer(many=True), FitAnswer()
    fit_request, cordon_request = FitRequest(), CordonRequest()

    @routes.get("")
    @describes({200: GpusAnswer})
    def list_gpus() -> ResponseReturnValue:
        """What is on each GPU."""
        occupancy = pool.occupancy()
        return {"gpus": gpu_answer.dump([_gpu(gpu, occupancy, own_user()) for gpu in occupancy.gpus])}

    @routes.get("/profiles")
    @describes({200: ProfilesAnswer})
    def list_profiles() -> ResponseReturnValue:
        """Which MIG profiles there are, how many are free, and when the next one is."""
        occupancy, now = pool.occupancy(), pool.clock().wall
        described = [_profile(gpu, profile, occupancy, now) for gpu, profile in occupancy.offers().values()]
        described.sort(key=lambda offer: (offer["compute_slices"], offer["memory_mib"], offer["name"]))
        return {"profiles": profile_answer.dump(described)}

    @routes.get("/fit")
    @describes({200: FitAnswer}, query=fit_request, problems=(422,))
    def fit() -> ResponseReturnValue:
        """Would this profile fit now, and if not, whose expiry makes room?"""
        wanted = fit_request.load(request.args)
        occupancy, now = pool.occupancy(), pool.clock().wall
        profile = occupancy.offered(wanted["profile"])
        return {**fit_answer.dump(_fit(profile, occupancy.fit(profile, now), occupancy, own_user()))}

    @routes.put("/<int:index>/cordon")
    @describes({204: None}, optional_body=cordon_request, problems=(404, 422, 507))
    def cordon(index: int) -> ResponseReturnValue:
        """Keep new sessions off a GPU."""
        wanted = cordon_request.load(request.get_json() if request.content_length else {})
        pool.cordon(index, wanted["reason"])
        return "", 204

    @routes.delete("/<int:index>/cordon")
    @describes({204: None}, problems=(404, 507))
    def uncordon(index: int) -> ResponseReturnValue:
        """Let new sessions onto a GPU again."""
        pool.uncordon(index)
        return "", 204

    return routes


def _gpu(gpu: Gpu, occupancy: Occupancy, owner: str | None) -> dict[str, Any]:
    leases = [lease for lease in occupancy.occupied if lease.gpu_uuid == gpu.uuid]
    return {
        "index": gpu.index,
        "uuid": gpu.uuid,
        "name": gpu.name,
        "memory_mib": gpu.memory_mib,
        "mig_mode": gpu.mig_mode,
        "memory_slices": {"total": gpu.memory_slices, "used": sum(lease.placement.size for lease in leases)},
        "instances": list(_instances(gpu, leases, occupancy, owner)),
        "healthy": gpu.fault is None,
        "cordoned": gpu.uuid in occupancy.cordons,
        "reason": occupancy.why_closed(gpu),
        "simulated": gpu.simulated,
    }


def _instances(
    gpu: Gpu, leases: list[Occupied], occupancy: Occupancy, owner: str | None
) -> Iterator[dict[str, Any]]:
    """What stands and what is promised, lowest start first; with `owner`, others' without names."""
    standing = {instance.placement: instance.mig_uuid for instance in gpu.instances}
    for lease in sorted(leases, key=lambda lease: lease.placement):
        session = occupancy.sessions.get(lease.session_id or "")
        named = session if session and owner in (None, session.user_id) else None
        yield {
            "gpu_uuid": standing.get(lease.placement),
            "profile": lease.profile,
            "start": lease.placement.start,
            "size": lease.placement.size,
            "session_id": named.id if named else None,
            "owner": "gateway" if session and not session.borrowed else "other",
            "user_id": named.user_id if named else None,
            "status": session.status if session else None,
            "expires_at": session.expires_at if session else None,
            "problem": named.problem if named else None,
        }


def _fit(profile: str, fit: Fit | None, occupancy: Occupancy, owner: str | None) -> dict[str, Any]:
    if fit is None:
        return {"profile": profile, "fits": False, "now": None, "at": None, "waits_for": []}
    return {
        "profile": profile,
        "fits": not fit.waits_for,
        "now": None if fit.waits_for else _place(fit, occupancy),
        "at": fit.at,
        "waits_for": [
            _waited_for(occupancy.sessions[str(lease.session_id)], owner) for lease in fit.waits_for
        ],
    }


def _waited_for(session: Session, owner: str | None) -> dict[str, Any]:
    """With `owner`, others' without names."""
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


def _profile(gpu: Gpu, profile: Profile, occupancy: Occupancy, now: datetime) -> dict[str, Any]:
    available = occupancy.available(profile.name)
    fit = None if available else occupancy.fit(profile.name, now)
    return {
        "name": profile.name,
        "compute_slices": profile.compute_slices,
        "memory_mib": profile.memory_mib,
        "total": occupancy.capacity(profile.name),
        "in_use": sum(session.mig_profile == profile.name for session in occupancy.sessions.values()),
        "available": available,
        "next_available_at": fit.at if fit else None,
        "description": _describe(gpu, profile),
    }


# What a share of a GPU is good for, by the largest share that it covers.
_USES = (
    (1 / 6, "light development, tests"),
    (1 / 3, "mid-sized training"),
    (1 / 2, "ordinary deep-learning work"),
    (2 / 3, "large-model inference"),
    (1.0, "large training and inference"),
)


def _describe(gpu: Gpu, profile: Profile) -> str:
    share = profile.compute_slices / gpu.compute_slices
    use = next(use for limit, use in _USES if share <= limit)
    return f"{profile.compute_slices} of {gpu.compute_slices} compute slices, {profile.memory_mib} MiB: {use}"
