"""Where a session goes: its slice and its address on one server, its profile on a cluster. Pure."""

import ipaddress
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from gateway.domain.addresses import free_address
from gateway.domain.clock import Moment
from gateway.domain.forecast import Forecast, Line
from gateway.domain.live_session import SessionSlice
from gateway.domain.mig import Gpu, MigPolicy, host_share
from gateway.domain.models import Cordon
from gateway.domain.occupancy import Chosen, Occupancy
from gateway.domain.plan import Allocation, SessionPlan, SessionRequest
from gateway.domain.waiting import Plan, Waiter
from gateway.errors import NoCapacity


@dataclass(frozen=True)
class SlicePlanner(ABC):
    """Plans slices on the GPUs as the driver listed them. A plan names at most so many `others`."""

    gpus: Sequence[Gpu]
    policy: MigPolicy
    others: ClassVar[int] = 0
    is_advice: ClassVar[bool] = False

    @abstractmethod
    def _planned(self, request: SessionRequest, live: Sequence[SessionSlice], chosen: Chosen) -> SessionPlan:
        """Return the plan of a session that goes there."""

    def profile(self, name: str | None, cordons: Mapping[str, Cordon]) -> str:
        """As `Occupancy.offered`."""
        return Occupancy(self.gpus, (), cordons, self.policy).offered(name)

    def plan_line(
        self,
        waiters: Sequence[Waiter],
        live: Sequence[SessionSlice],
        cordons: Mapping[str, Cordon],
        demand: Mapping[str, float],
        now: Moment,
        overtaking: str | None = None,
        ending: str | None = None,
    ) -> Plan:
        occupancy = Occupancy(self.gpus, live, cordons, self.policy, now.wall)
        return Forecast(occupancy, now, ending).plan(waiters, demand, overtaking)

    def plan(
        self,
        request: SessionRequest,
        live: Sequence[SessionSlice],
        cordons: Mapping[str, Cordon],
        demand: Mapping[str, float],
        refused: Sequence[Allocation] = (),
        line: Line | None = None,
    ) -> SessionPlan:
        """Raises `NoCapacity` and `UnknownProfile`."""
        occupancy = Occupancy(self.gpus, live, cordons, self.policy, request.created_at)
        profile = occupancy.offered(request.mig_profile)
        chosen = self._place(occupancy, request, profile, demand, refused, line)
        return self._planned(request, live, chosen)

    def _place(
        self,
        occupancy: Occupancy,
        request: SessionRequest,
        profile: str,
        demand: Mapping[str, float],
        refused: Sequence[Allocation],
        line: Line | None,
    ) -> Chosen:
        begin, end = request.created_at, request.expires_at
        spots = [(one.gpu, one.placement) for one in refused]
        if line is None or not (line.waiters or line.reservation or occupancy.scheduled):
            return occupancy.place(profile, end, begin, demand, spots, None, self.others)
        forecast = Forecast(occupancy, line.now)
        try:
            among = forecast.spots(profile, end - begin, line)
            return occupancy.place(profile, end, begin, demand, spots, among, self.others)
        except NoCapacity as refusal:
            waits = len(line.waiters)
            message = (
                f"{refusal} What is free was promised to others: {waits} in line." if waits else str(refusal)
            )
            raise NoCapacity(message, forecast.earliest(profile, end - begin, line), profile) from None


@dataclass(frozen=True)
class LocalPlanner(SlicePlanner):
    """`subnet` holds the sessions' addresses; those that are `unavailable` cannot be given to a session."""

    subnet: ipaddress.IPv4Network
    unavailable: Collection[str] = ()

    def _planned(self, request: SessionRequest, live: Sequence[SessionSlice], chosen: Chosen) -> SessionPlan:
        allocation = chosen.allocation
        used = {session.address for session in live if session.address} | set(self.unavailable)
        share = host_share(chosen.gpu, allocation.placement, self.gpus)
        address = free_address(self.subnet, used)
        return SessionPlan(request, allocation.profile, chosen.gpu, allocation, address, share)


@dataclass(frozen=True)
class ClusterPlanner(SlicePlanner):
    """Decides the profile of a session, and that there is room for it. Its GPU is advice: the cluster's
    scheduler chooses the slice. It needs seconds for a pod that fits nowhere, so such a request is refused
    before."""

    others: ClassVar[int] = 2
    is_advice: ClassVar[bool] = True

    def _planned(self, request: SessionRequest, live: Sequence[SessionSlice], chosen: Chosen) -> SessionPlan:
        return SessionPlan(request, chosen.allocation.profile, chosen.gpu, others=chosen.others)
