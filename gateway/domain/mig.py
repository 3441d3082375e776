"""MIG in plain values: GPUs, profiles, placements and instances, and when one fits.

Sizes of GPU instances are counted in memory slices, as nvml.h counts them; nothing here assumes how
many a GPU has, what its profiles are called or how large they are: a `Gpu` says so itself.
"""

from dataclasses import dataclass
from enum import StrEnum


class MigMode(StrEnum):
    ENABLED = "enabled"
    DISABLED = "disabled"
    UNSUPPORTED = "unsupported"
    PENDING_RESET = "pending-reset"  # switched, but the GPU was not reset since


class MigPolicy(StrEnum):
    """Where slices come from."""

    DYNAMIC = "dynamic"  # made for each session, destroyed after it
    STATIC = "static"  # leased from those that stand idle, given back undestroyed
    MIXED = "mixed"  # an idle one that fits exactly, else one made


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
class FreeCapacity:
    """What is left of one GPU: free memory slices as a mask, compute slices, media engines, and the
    names of the profiles that stand on it, in order."""

    mask: int
    compute: int
    media: int
    standing: tuple[str, ...] = ()

    @classmethod
    def of(cls, gpu: Gpu) -> "FreeCapacity":
        """All of `gpu`, as if nothing stood on it."""
        media = max((profile.media_engines for profile in gpu.profiles), default=0)
        return cls((1 << gpu.memory_slices) - 1, gpu.compute_slices, media)

    def without(self, name: str, profile: Profile | None, placement: Placement) -> "FreeCapacity":
        """What is left beside a piece called `name`; `profile` is None where the GPU offers no such one."""
        return FreeCapacity(
            mask=self.mask & ~placement.mask,
            compute=self.compute - (profile.compute_slices if profile else 0),
            media=self.media - (profile.media_engines if profile else 0),
            standing=tuple(sorted((*self.standing, name))),
        )

    def places(self, profile: Profile) -> list[Placement]:
        """Where `profile` fits: the memory interval is free *and* compute slices and media engines
        are left *and* so is the profile's own count. Lowest start first."""
        if self.compute < profile.compute_slices or self.media < profile.media_engines:
            return []
        if self.standing.count(profile.name) >= profile.max_instances:
            return []
        return sorted(place for place in profile.placements if place.mask & ~self.mask == 0)
