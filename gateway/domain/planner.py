"""Where a session goes on one server: its slice and its address. Pure."""

import ipaddress
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from gateway.domain.addresses import free_address
from gateway.domain.mig import Gpu, MigPolicy, host_share
from gateway.domain.models import Cordon, Session
from gateway.domain.occupancy import Occupancy
from gateway.domain.plan import Allocation, SessionPlan, SessionRequest


@dataclass(frozen=True, slots=True)
class LocalPlanner:
    """Plans with the GPUs as the driver listed them. `subnet` holds the sessions' addresses; those that are
    `taken` cannot be given to a session."""

    gpus: Sequence[Gpu]
    subnet: ipaddress.IPv4Network
    policy: MigPolicy
    taken: Collection[str] = ()

    def plan(
        self,
        request: SessionRequest,
        live: Sequence[Session],
        cordons: Mapping[str, Cordon],
        demand: Mapping[str, float],
        refused: Sequence[Allocation] = (),
    ) -> SessionPlan:
        """Raises `NoCapacity` and `UnknownProfile`."""
        occupancy = Occupancy(self.gpus, live, cordons, self.policy)
        profile = occupancy.offered(request.mig_profile)
        gpu, allocation = occupancy.place(
            profile,
            request.expires_at,
            request.created_at,
            demand,
            refused=[(one.gpu, one.placement) for one in refused],
        )
        used = {session.address for session in live if session.address} | set(self.taken)
        share = host_share(allocation.placement, self.gpus)
        return SessionPlan(request, profile, gpu, allocation, free_address(self.subnet, used), share)
