"""Lists what occupies the host's GPUs, and keeps new slices off a GPU."""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta

from gateway.domain.audit import Action
from gateway.domain.availability import Availability
from gateway.domain.clock import Clock
from gateway.domain.mig import MigPolicy
from gateway.domain.models import Event
from gateway.domain.occupancy import Occupancy
from gateway.errors import GatewayError, GpuNotFound
from gateway.services.line import line_of, replan
from gateway.services.policies import Policies
from gateway.services.ports import Database, Host

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GpuInventory:
    database: Database
    host: Host
    policy: MigPolicy
    policies: Policies
    longest_ttl: timedelta
    clock: Clock

    def availability(self, lease: timedelta | None = None, user_id: str | None = None) -> Availability:
        """Return what the GPUs have for a new session. `lease` is None for the default of the user's policy,
        or of the policy for all."""
        gpus = self.host.list_gpus()
        lease = lease or self.policies.default_lease(user_id, self.longest_ttl)
        with self.database.read() as rows:
            now = self.clock()
            sessions = {session.id: session for session in rows.live_sessions()}
            slices = [session.slice(now) for session in sessions.values()]
            occupancy = Occupancy(gpus, slices, rows.cordons(), self.policy, now.wall)
            return Availability(occupancy, sessions, line_of(rows, now), lease, rows.demand())

    def cordon(self, index: int, reason: str, starts_at: datetime | None = None) -> None:
        """Start no new sessions on the GPU until `uncordon`. Its live sessions stay. Raises `GpuNotFound`.

        Until `starts_at`, sessions that end before start there, and leases are extended up to then.
        """
        gpu, planner = self._uuid(index), self.host.line_planner()
        with self.database.begin() as rows:
            now = self.clock()
            rows.cordon(gpu, reason, now.wall, starts_at)
            replan(rows, planner, now)
            begins = f" from {starts_at:%Y-%m-%d %H:%M:%S} UTC" if starts_at else ""
            detail = f"GPU {index} {gpu}{begins}" + (f": {reason}" if reason else "")
            rows.record(Event.of(self.clock().wall, Action.CORDONED, detail))
        self._tell_host()

    def uncordon(self, index: int) -> None:
        gpu, planner = self._uuid(index), self.host.line_planner()
        with self.database.begin() as rows:
            rows.uncordon(gpu)
            replan(rows, planner, self.clock())
            rows.record(Event.of(self.clock().wall, Action.UNCORDONED, f"GPU {index} {gpu}"))
        self._tell_host()

    def enforce_cordons(self) -> None:
        """Let the host follow the cordons that are in force now. Raises `Unavailable`."""
        with self.database.read() as rows:
            cordons = rows.cordons()
        self.host.cordon([gpu for gpu, cordon in cordons.items() if cordon.is_in_force(self.clock().wall)])

    def _tell_host(self) -> None:
        """The cordon is recorded, and the gateway's own plans follow it; the reconciler tries again."""
        try:
            self.enforce_cordons()
        except GatewayError as error:
            log.warning("the host does not follow a cordon yet", extra={"error": str(error)})

    def _uuid(self, index: int) -> str:
        gpus = {gpu.index: gpu for gpu in self.host.list_gpus()}
        if index not in gpus:
            raise GpuNotFound(index, len(gpus))
        return gpus[index].uuid
