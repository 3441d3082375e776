"""Lists what occupies the host's GPUs, and keeps new slices off a GPU."""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta

from gateway.domain.audit import Action
from gateway.domain.availability import Availability
from gateway.domain.clock import Clock
from gateway.domain.mig import Gpu, MigPolicy
from gateway.domain.models import Event
from gateway.domain.occupancy import Occupancy
from gateway.errors import GatewayError, GpuNotFound, InvalidRequest
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

    def cordon(self, name: str, reason: str, starts_at: datetime | None = None) -> None:
        """Start no new sessions on the GPU until `uncordon`. Its live sessions stay. `name` is the GPU's
        label or UUID. Raises `GpuNotFound`, `InvalidRequest`.

        Until `starts_at`, sessions that end before start there, and leases are extended up to then.
        """
        gpu, planner = self._named(name), self.host.line_planner()
        with self.database.begin() as rows:
            now = self.clock()
            rows.cordon(gpu.uuid, reason, now.wall, starts_at)
            replan(rows, planner, now)
            begins = f" from {starts_at:%Y-%m-%d %H:%M:%S} UTC" if starts_at else ""
            detail = f"{_described(gpu)}{begins}" + (f": {reason}" if reason else "")
            rows.record(Event.of(self.clock().wall, Action.CORDONED, detail))
        self._tell_host()

    def uncordon(self, name: str) -> None:
        gpu, planner = self._named(name), self.host.line_planner()
        with self.database.begin() as rows:
            if gpu.uuid in rows.cordons():
                rows.uncordon(gpu.uuid)
                replan(rows, planner, self.clock())
                rows.record(Event.of(self.clock().wall, Action.UNCORDONED, _described(gpu)))
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

    def _named(self, name: str) -> Gpu:
        gpus = self.host.list_gpus()
        found = next((gpu for gpu in gpus if name in (gpu.label, gpu.uuid)), None)
        if found:
            return found
        if name.isdecimal() and any(gpu.node for gpu in gpus):
            raise InvalidRequest(
                "In a cluster the index of a GPU changes when nodes come and go. Name the GPU by its UUID or "
                f"by its node and its index there, such as {gpus[0].label}: GET /gpus lists them as `label`."
            )
        raise GpuNotFound(name, [gpu.label for gpu in gpus])


def _described(gpu: Gpu) -> str:
    return f"GPU {gpu.label} {gpu.uuid}" if gpu.label != gpu.uuid else f"GPU {gpu.uuid}"
