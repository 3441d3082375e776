"""MIG in plain values: GPUs, profiles, placements and instances, and when one fits.

Sizes of GPU instances are counted in memory slices, as nvml.h counts them; nothing here assumes how
many a GPU has, what its profiles are called or how large they are: a `Gpu` says so itself.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


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


class MediaEngines(NamedTuple):
    """How many video decoders and encoders, JPEG decoders and optical flow accelerators (OFA)."""

    decoders: int = 0
    encoders: int = 0
    jpegs: int = 0
    ofas: int = 0

    def minus(self, taken: "MediaEngines") -> "MediaEngines":
        return MediaEngines(*(have - less for have, less in zip(self, taken, strict=True)))

    def covers(self, wanted: "MediaEngines") -> bool:
        return all(have >= want for have, want in zip(self, wanted, strict=True))


@dataclass(frozen=True, slots=True)
class Profile:
    """What one GPU offers under one name.

    `driver_id` means something to this GPU only. `max_instances` is how many an empty GPU holds;
    `engines` are the GPU's media engines that one instance takes for itself.
    """

    name: str
    driver_id: int
    compute_slices: int
    memory_mib: int
    max_instances: int
    placements: tuple[Placement, ...]
    engines: MediaEngines = MediaEngines()


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
    """One GPU as its driver describes it. `fault` says in a few words why it must not be used; None: it may
    be used. `complete` is False if the driver's free capacity shows that instances are missing from its
    list."""

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
    complete: bool = True

    def profile(self, name: str) -> Profile | None:
        return next((profile for profile in self.profiles if profile.name == name), None)


@dataclass(frozen=True, slots=True)
class FreeCapacity:
    """What is left of one GPU: free memory slices as a mask, compute slices, media engines, and the
    names of the profiles that stand on it, in order."""

    mask: int
    compute: int
    engines: MediaEngines
    standing: tuple[str, ...] = ()

    @classmethod
    def of(cls, gpu: Gpu) -> "FreeCapacity":
        """All of `gpu`, as if nothing stood on it."""
        return cls((1 << gpu.memory_slices) - 1, gpu.compute_slices, _all_engines(gpu.profiles))

    def without(self, name: str, profile: Profile | None, placement: Placement) -> "FreeCapacity":
        """What is left beside a piece called `name`; `profile` is None where the GPU offers no such one."""
        return FreeCapacity(
            mask=self.mask & ~placement.mask,
            compute=self.compute - (profile.compute_slices if profile else 0),
            engines=self.engines.minus(profile.engines) if profile else self.engines,
            standing=tuple(sorted((*self.standing, name))),
        )

    def places(self, profile: Profile) -> list[Placement]:
        """Where `profile` fits: the memory interval is free *and* compute slices and media engines
        are left *and* so is the profile's own count. Lowest start first."""
        if self.compute < profile.compute_slices or not self.engines.covers(profile.engines):
            return []
        if self.standing.count(profile.name) >= profile.max_instances:
            return []
        return sorted(place for place in profile.placements if place.mask & ~self.mask == 0)

    def count(self, profile: Profile) -> int:
        """How many of `profile` fit, if only that one is created."""
        places = self.places(profile)  # all of one size: filling up from the lowest wastes nothing
        return 1 + self.without(profile.name, profile, places[0]).count(profile) if places else 0


def _all_engines(profiles: Iterable[Profile]) -> MediaEngines:
    """The engines of an empty GPU. NVML does not report them; but an empty GPU holds `max_instances` of each
    profile, so it has the engines for that many. The largest profile alone is not enough: on a B200 the
    7g has one decoder, and so has each of seven 1g."""
    needs = [[count * profile.max_instances for count in profile.engines] for profile in profiles]
    return MediaEngines(*map(max, zip(*needs, strict=True)))
