"""/gpus: what the host's GPUs hold, and what they could hold."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from flask import Blueprint
from flask.typing import ResponseReturnValue

from gateway import placement
from gateway.api.schemas import GpuAnswer, ProfileAnswer
from gateway.mig import Gpu, Instance, Profile
from gateway.placement import Lease
from gateway.sessions import Sessions


def blueprint(sessions: Sessions) -> Blueprint:
    routes = Blueprint("gpus", __name__, url_prefix="/gpus")
    gpu_answer = GpuAnswer(many=True)
    profile_answer = ProfileAnswer(many=True)

    @routes.get("")
    def list_gpus() -> ResponseReturnValue:
        gpus, leases = sessions.occupancy()
        return {"gpus": gpu_answer.dump([_gpu(gpu, leases) for gpu in gpus])}

    @routes.get("/profiles")
    def list_profiles() -> ResponseReturnValue:
        gpus, leases = sessions.occupancy()
        offers = {profile.name: (gpu, profile) for gpu in reversed(gpus) for profile in gpu.profiles}
        now = datetime.now(UTC)
        described = [_profile(gpu, profile, gpus, leases, now) for gpu, profile in offers.values()]
        described.sort(key=lambda offer: (offer["compute_slices"], offer["memory_mib"], offer["name"]))
        return {"profiles": profile_answer.dump(described)}

    return routes


def _gpu(gpu: Gpu, leases: Sequence[Lease]) -> dict[str, Any]:
    holders = {lease.placement: lease.session_id for lease in leases if lease.gpu_uuid == gpu.uuid}
    used = sum(placement.size for placement in holders)
    return {
        "index": gpu.index,
        "uuid": gpu.uuid,
        "name": gpu.name,
        "memory_mib": gpu.memory_mib,
        "mig_mode": gpu.mig_mode,
        "memory_slices": {"total": gpu.memory_slices, "used": used},
        "instances": [_instance(instance, holders.get(instance.placement)) for instance in gpu.instances],
        "healthy": gpu.fault is None,
        "reason": gpu.fault,
        "simulated": gpu.simulated,
    }


def _instance(instance: Instance, session_id: str | None) -> dict[str, Any]:
    return {
        "gpu_uuid": instance.mig_uuid,
        "profile": instance.profile,
        "start": instance.placement.start,
        "size": instance.placement.size,
        "session_id": session_id,
        "owner": "gateway" if session_id else "other",
    }


def _profile(
    gpu: Gpu, profile: Profile, gpus: Sequence[Gpu], leases: Sequence[Lease], now: datetime
) -> dict[str, Any]:
    available = placement.available(gpus, leases, profile.name)
    fit = None if available else placement.next_fit(gpus, leases, profile.name, now)
    return {
        "name": profile.name,
        "compute_slices": profile.compute_slices,
        "memory_mib": profile.memory_mib,
        "total": placement.capacity(gpus, profile.name),
        "in_use": sum(lease.profile == profile.name for lease in leases),
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
