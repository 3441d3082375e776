"""What the host's GPUs hold at one moment, what else fits, and where it fits. Pure.

The GPUs are read before the rows. An instance that was made for a session before the GPUs were read
therefore has its row here, and is recognised as the session's.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from gateway.domain import placement
from gateway.domain.gpu_pool import GpuPool
from gateway.domain.live_session import SessionSlice
from gateway.domain.mig import FULL, Gpu, Instance, MigMode, MigPolicy, Placement, Profile
from gateway.domain.models import Cordon
from gateway.domain.placement import Fit, Occupied, Spot
from gateway.domain.plan import Allocation
from gateway.errors import NoCapacity, UnknownProfile


@dataclass(frozen=True, slots=True)
class Chosen:
    """`others` are GPUs of other nodes with room for the same profile."""

    gpu: Gpu
    allocation: Allocation
    others: tuple[Gpu, ...] = ()


class Occupancy:
    """`occupied` are all placements that are not free: those of instances, and those of planned slices.
    `scheduled` are the cordons that begin after `now`; without `now`, all cordons are in force."""

    def __init__(
        self,
        gpus: Sequence[Gpu],
        sessions: Sequence[SessionSlice],
        cordons: Mapping[str, Cordon],
        policy: MigPolicy,
        now: datetime | None = None,
    ) -> None:
        self.gpus = GpuPool.of(gpus)
        self.sessions = sessions
        self.scheduled = {
            gpu: cordon for gpu, cordon in cordons.items() if now and not cordon.is_in_force(now)
        }
        self.cordons = {gpu: cordon for gpu, cordon in cordons.items() if gpu not in self.scheduled}
        self.policy = policy

    @cached_property
    def occupied(self) -> Sequence[Occupied]:
        """The instance of a session counts once, as the session's."""
        whole = self.gpus.whole
        held = [
            Occupied(
                uuid,
                profile,
                place if (uuid in whole) == (profile == FULL) else self._occupied_place(uuid, place),
                None if borrowed else expires_at,  # a borrowed instance stays
                session_id,
            )
            for session_id, uuid, profile, place, borrowed, _, expires_at, _ in self.sessions
            if uuid is not None and place is not None
        ]
        if not self.gpus.instances:
            return held
        own = {(session.gpu, session.placement) for session in self.sessions}
        others = [
            Occupied(instance.gpu_uuid, instance.profile, instance.placement, None)
            for instance in self.gpus.instances
            if (instance.gpu_uuid, instance.placement) not in own
        ]
        return [*held, *others]

    @cached_property
    def occupied_of(self) -> Mapping[str, Sequence[Occupied]]:
        """The occupied placements by the UUID of their GPU."""
        return placement.by_gpu(self.occupied)

    def _occupied_place(self, gpu_uuid: str, placement: Placement) -> Placement:
        """A GPU whose MIG mode was changed under a session is occupied as a whole: a slice and the whole GPU
        are never leased side by side."""
        gpu = self.gpus.by_uuid.get(gpu_uuid)
        if gpu is None or not gpu.is_leasable:
            return placement
        return Placement(0, max(1, gpu.memory_slices))

    def offers(self) -> Mapping[str, tuple[Gpu, Profile]]:
        """Every profile that a caller can request, by name, with the first GPU that has it."""
        if self.policy is not MigPolicy.STATIC:
            return self.gpus.offers
        return {
            profile.name: (gpu, profile)
            for gpu in reversed(self.gpus)
            for profile in gpu.profiles
            if gpu.is_whole or any(instance.profile == profile.name for instance in gpu.instances)
        }

    def offered(self, name: str | None) -> str:
        """`name` if a GPU offers it; the smallest profile if `name` is None. Raises `UnknownProfile` only if
        the profiles of all GPUs are known, otherwise `NoCapacity`."""
        offers = self.offers()
        if not offers:
            raise NoCapacity(_why_no_profiles(self.gpus))
        if name is None:
            smallest = min((_size(profile), profile.name) for _, profile in offers.values())
            return smallest[1]
        if name in offers:
            return name
        if unknown := list(self._unknown()):
            message = f"No GPU that is in order offers the MIG profile {name!r}."
            raise NoCapacity(" ".join([message, *unknown]))
        raise UnknownProfile(name, sorted(offers))

    def place(
        self,
        profile: str,
        expires_at: datetime,
        now: datetime,
        demand: Mapping[str, float],
        refused: Collection[Spot] = (),
        among: Collection[Spot] | None = None,
        others: int = 0,
    ) -> Chosen:
        """Return the GPU and the allocation for a session's slice, and at most so many `others`.

        A `refused` placement is never chosen, and its GPU only if no other GPU has free capacity. With
        `among`, only these placements are chosen. Raises `NoCapacity` with the time when there will be free
        capacity.
        """
        for gpu, instance in self._idle(profile):
            spot = (gpu.uuid, instance.placement)
            if spot not in refused and (among is None or spot in among):
                return Chosen(gpu, Allocation(gpu.uuid, profile, instance.placement, borrowed=True))
        chosen = placement.choose(
            self._divisible, self.occupied, profile, expires_at, now, demand, refused, among, others=others
        )
        if chosen is None:
            fit = self.fit(profile, now)
            message = " ".join([f"No GPU has room for a {profile} now.", *self._out_of_use()])
            raise NoCapacity(message, fit.at if fit else None, profile)
        allocation = Allocation(chosen.gpu.uuid, profile, chosen.placement)
        return Chosen(chosen.gpu, allocation, chosen.others)

    def fit(self, profile: str, now: datetime) -> Fit | None:
        """Return where the profile fits now or else first, and which sessions must end before."""
        for gpu, instance in self._idle(profile):
            return Fit(gpu.uuid, instance.placement, now)
        new = placement.next_fit(self._divisible, self.occupied, profile, now)
        fits = [fit for fit in (new, self._next_borrowed(profile, now)) if fit]
        return min(fits, key=lambda fit: fit.at, default=None)

    def available(self, profile: str) -> int:
        """Return how many slices of the profile fit now, if no other profile is requested."""
        return len(self._idle(profile)) + placement.available(self._divisible, self.occupied, profile)

    def capacity(self, profile: str) -> int:
        """Return how many slices of the profile fit if there are no sessions."""
        new = placement.capacity(self._divisible, profile)
        if self.policy is not MigPolicy.STATIC:
            return new
        return new + sum(instance.profile == profile for gpu in self.open for instance in gpu.instances)

    @property
    def open(self) -> GpuPool:
        """The GPUs on which sessions may begin."""
        return self.gpus.open(self.cordons)

    def why_closed(self, gpu: Gpu) -> str | None:
        """Return the fault or the cordon that keeps new sessions off the GPU; None if there is neither."""
        cordon = self.cordons.get(gpu.uuid)
        if gpu.fault or cordon is None:
            return gpu.fault
        return f"cordoned: {cordon.reason}" if cordon.reason else "cordoned"

    @property
    def _divisible(self) -> Sequence[Gpu]:
        """The GPUs on which the gateway may make instances, and those that it leases whole."""
        if self.policy is not MigPolicy.STATIC:
            return self.open
        return [gpu for gpu in self.open if gpu.is_whole]

    def _idle(self, profile: str) -> Sequence[tuple[Gpu, Instance]]:
        """The existing instances that a session can get."""
        if self.policy is MigPolicy.DYNAMIC:
            return []
        held = {(lease.gpu_uuid, lease.placement) for lease in self.occupied if lease.session_id}
        return [
            (gpu, instance)
            for gpu in self.open
            for instance in gpu.instances
            if instance.profile == profile
            and instance.mig_uuid is not None
            and (gpu.uuid, instance.placement) not in held
        ]

    def _next_borrowed(self, profile: str, now: datetime) -> Fit | None:
        """The borrowed slice whose session ends first."""
        ends_at = {session.id: session.expires_at for session in self.sessions if session.borrowed}
        ends = [
            Fit(lease.gpu_uuid, lease.placement, max(now, ends_at[lease.session_id]), (lease,))
            for lease in self.occupied
            if lease.session_id in ends_at and lease.profile == profile
            if lease.gpu_uuid in self.open.by_uuid
        ]
        return min(ends, key=lambda fit: fit.at, default=None)

    def _unknown(self) -> Iterator[str]:
        """One sentence for each GPU whose profiles are unknown: the reason, and what to do."""
        for gpu in self.gpus:
            if gpu.fault and not gpu.profiles:
                yield f"GPU {gpu.index} is out of order: {gpu.fault}; see nvidia-smi and dmesg."
            elif gpu.mig_mode is MigMode.PENDING_RESET:
                reset = "stop the gateway and run `nvidia-smi --gpu-reset`, or reboot"
                yield f"GPU {gpu.index} waits for a reset; {reset}."
            elif self.policy is MigPolicy.STATIC and not gpu.complete:
                yield f"The driver does not list all instances of GPU {gpu.index}; try again."

    def _out_of_use(self) -> Sequence[str]:
        reasons = [(gpu.index, self.why_closed(gpu)) for gpu in self.gpus]
        return [f"GPU {index} takes no sessions: {reason}." for index, reason in reasons if reason]


def _size(profile: Profile) -> tuple[int, int]:
    return profile.compute_slices, profile.memory_mib


def _why_no_profiles(gpus: Sequence[Gpu]) -> str:
    if not gpus:
        return "The driver of this host reports no GPU; see nvidia-smi -L."
    if all(gpu.fault for gpu in gpus):
        return f"Every GPU of this host is out of order: {gpus[0].fault}; see nvidia-smi and dmesg."
    modes = {gpu.mig_mode for gpu in gpus}
    if MigMode.ENABLED in modes:
        return (
            "This host has no GPU instance for a session; make some with `nvidia-smi mig -cgi 9,14 -C`, or "
            "let the gateway make them with --mig-policy mixed."
        )
    if MigMode.PENDING_RESET in modes:
        return (
            "MIG was switched but the GPUs were not reset since; stop the gateway and run `nvidia-smi "
            "--gpu-reset`, or reboot."
        )
    if MigMode.DISABLED in modes:
        return (
            "MIG is off on every GPU here; an administrator turns it on with `nvidia-smi -i 0 -mig 1`, or "
            "leases the GPUs whole with --whole-gpus."
        )
    return "No GPU of this host supports MIG; --whole-gpus leases them whole."
