"""The labels by which the gateway recognises its containers, also those that no row mentions."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime

from gateway.domain.mig import Placement
from gateway.domain.plan import Allocation
from gateway.repositories.host_parts import ContainerSpec

_PLACEMENT = re.compile(r"([0-9]{1,3}):([0-9]{1,3})")

SESSION = "io.gpu-ssh-gateway.session"
OWNER = "io.gpu-ssh-gateway.owner"
PROFILE = "io.gpu-ssh-gateway.mig-profile"
GPU = "io.gpu-ssh-gateway.gpu"
PLACEMENT = "io.gpu-ssh-gateway.placement"
GPU_UUID = "io.gpu-ssh-gateway.gpu-uuid"
UID = "io.gpu-ssh-gateway.uid"
BORROWED = "io.gpu-ssh-gateway.borrowed"
DEPLOYMENT = "io.gpu-ssh-gateway.deployment"  # the id of the database that records the session
FIRST_END = (
    "io.gpu-ssh-gateway.first-end"  # of the lease at the start; an extension does not change the label
)
PLANNED = "io.gpu-ssh-gateway.planned"  # how the container was set up, see `setup`
NETWORK = "io.gpu-ssh-gateway.network"
EGRESS = "io.gpu-ssh-gateway.egress"  # on the proxy: the SHA-256 of its configuration


def of(spec: ContainerSpec, network: str, deployment: str) -> dict[str, str]:
    """Return the labels of a session's container. `network` separates gateways that share one Docker."""
    allocation = spec.allocation
    return {
        NETWORK: network,
        DEPLOYMENT: deployment,
        SESSION: spec.request.session_id,
        OWNER: spec.request.user_id,
        PROFILE: allocation.profile,
        GPU: allocation.gpu,
        PLACEMENT: f"{allocation.placement.start}:{allocation.placement.size}",
        GPU_UUID: spec.gpu_uuid,
        BORROWED: str(allocation.borrowed).lower(),
        UID: str(spec.request.uid),
        FIRST_END: spec.request.expires_at.isoformat(timespec="seconds"),
    }


def allocation(found: Mapping[str, str]) -> Allocation | None:
    """Return the allocation in the labels of a container; None if a label is missing or damaged."""
    match = _PLACEMENT.fullmatch(found.get(PLACEMENT, ""))
    if not match or found.get(BORROWED) not in ("true", "false") or not found.get(GPU_UUID):
        return None
    placement = Placement(int(match[1]), int(match[2]))
    borrowed = found[BORROWED] == "true"
    return Allocation(found.get(GPU, ""), found.get(PROFILE, ""), placement, borrowed, found[GPU_UUID])


def first_end(found: Mapping[str, str], otherwise: datetime) -> datetime:
    """Return the first end of the lease from the label; `otherwise` if the label has no valid time."""
    try:
        return datetime.fromisoformat(found.get(FIRST_END, "")).astimezone(UTC)
    except (ValueError, OverflowError):
        return otherwise
