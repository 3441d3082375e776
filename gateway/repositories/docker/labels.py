"""The labels by which the gateway knows its own containers, whoever made or lost track of them."""

from gateway.repositories.host import ContainerSpec

SESSION = "io.gpu-ssh-gateway.session"
OWNER = "io.gpu-ssh-gateway.owner"
PROFILE = "io.gpu-ssh-gateway.mig-profile"
GPU = "io.gpu-ssh-gateway.gpu"
PLACEMENT = "io.gpu-ssh-gateway.placement"
GPU_UUID = "io.gpu-ssh-gateway.gpu-uuid"
EXPIRES_AT = "io.gpu-ssh-gateway.expires-at"
NETWORK = "io.gpu-ssh-gateway.network"
EGRESS = "io.gpu-ssh-gateway.egress"  # of the proxy: its configuration's SHA-256


def of(spec: ContainerSpec, network: str) -> dict[str, str]:
    """`network` tells whose the container is where several gateways share one Docker."""
    allocation = spec.allocation
    return {
        NETWORK: network,
        SESSION: spec.request.session_id,
        OWNER: spec.request.user_id,
        PROFILE: allocation.profile,
        GPU: allocation.gpu,
        PLACEMENT: f"{allocation.placement.start}:{allocation.placement.size}",
        GPU_UUID: spec.gpu_uuid,
        EXPIRES_AT: spec.request.expires_at.isoformat(timespec="seconds"),
    }
