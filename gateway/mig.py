"""MIG in plain values: GPUs, profiles, placements and instances, and when one fits.

Sizes of GPU instances are counted in memory slices, as nvml.h counts them; nothing here assumes how
many a GPU has, what its profiles are called or how large they are: a `Gpu` says so itself.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum


class MigMode(StrEnum):
    ENABLED = "enabled"
    DISABLED = "disabled"
    UNSUPPORTED = "unsupported"
    PENDING_RESET = "pending-reset"  # switched, but the GPU was not reset since


@dataclass(frozen=True, slots=True, order=True)
class Placement:
    """The memory slices `start` … `start + size - 1` of one GPU."""

    start: int
    size: int

    @property
    def mask(self) -> int:
        """One bit a memory slice, the lowest for slice 0."""
        return ((1 << self.size) - 1) << self.start

    def overlaps(self, other: "Placement") -> bool:
        return bool(self.mask & other.mask)


@dataclass(frozen=True, slots=True)
class Profile:
    """What one GPU offers under one name.

    `driver_id` means something to this GPU only. `max_instances` is how many an empty GPU holds;
    `media_engines` how many of the GPU's shared media engines (its OFAs) one instance takes.
    """

    name: str
    driver_id: int
    compute_slices: int
    memory_mib: int
    max_instances: int
    placements: tuple[Placement, ...]
    media_engines: int = 0


@dataclass(frozen=True, slots=True)
class Instance:
    """A GPU instance that a driver reported. `mig_uuid` is None while it has no compute instance."""

    gpu_uuid: str
    gi_id: int
    profile: str
    placement: Placement
    mig_uuid: str | None


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as its driver describes it. `fault` says in a few words why it must not be used, None
    when it may."""

    index: int
    uuid: str
    name: str
    memory_mib: int
    mig_mode: MigMode
    memory_slices: int
    compute_slices: int
    profiles: tuple[Profile, ...]
    instances: tuple[Instance, ...]
    fault: str | None = None
    simulated: bool = False

    def profile(self, name: str) -> Profile | None:
        return next((profile for profile in self.profiles if profile.name == name), None)


@dataclass(frozen=True, slots=True)
class Taken:
    """A piece of a GPU that is not free: an instance that stands, or one that is about to."""

    gpu_uuid: str
    profile: str
    placement: Placement


def _free(gpu: Gpu, taken: Iterable[Taken]) -> "_Room":
    room = _Room(
        mask=(1 << gpu.memory_slices) - 1,
        compute=gpu.compute_slices,
        media=max((profile.media_engines for profile in gpu.profiles), default=0),
    )
    for piece in taken:
        if piece.gpu_uuid == gpu.uuid:
            room = room.without(piece, gpu.profile(piece.profile))
    return room


@dataclass(frozen=True, slots=True)
class _Room:
    mask: int
    compute: int
    media: int

    def without(self, piece: Taken, profile: Profile | None) -> "_Room":
        return replace(
            self,
            mask=self.mask & ~piece.placement.mask,
            compute=self.compute - (profile.compute_slices if profile else 0),
            media=self.media - (profile.media_engines if profile else 0),
        )


def free_placements(gpu: Gpu, profile: Profile, taken: Iterable[Taken]) -> list[Placement]:
    """Where `profile` can stand on `gpu` beside `taken`: the memory interval is free *and* compute
    slices are left *and* so is the profile's own count. Lowest start first."""
    taken = list(taken)
    room = _free(gpu, taken)
    count = sum(piece.gpu_uuid == gpu.uuid and piece.profile == profile.name for piece in taken)
    if room.compute < profile.compute_slices or room.media < profile.media_engines or count >= profile.max_instances:
        return []
    return sorted(place for place in profile.placements if place.mask & ~room.mask == 0)
