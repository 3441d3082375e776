"""MIG as plain values: GPUs, profiles, placements and instances, and where an instance fits.

Sizes of GPU instances are in memory slices, as in nvml.h. The number of slices of a GPU and the names and
sizes of its profiles come from the driver, as fields of `Gpu`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class MigMode(StrEnum):
    ENABLED = "enabled"
    DISABLED = "disabled"
    UNSUPPORTED = "unsupported"
    PENDING_RESET = "pending-reset"  # MIG was switched, and takes effect at the next reset of the GPU


class MigPolicy(StrEnum):
    """How a session gets its slice."""

    DYNAMIC = "dynamic"  # the gateway makes an instance for each session and destroys it afterwards
    STATIC = "static"  # the session borrows an idle instance, which stays afterwards
    MIXED = "mixed"  # an idle instance of the profile if there is one, otherwise a new one


@dataclass(frozen=True, slots=True, order=True)
class Placement:
    """The memory slices `start` … `start + size - 1` of one GPU."""

    start: int
    size: int

    @property
    def mask(self) -> int:
        """One bit for each memory slice; the lowest bit is slice 0."""
        return ((1 << self.size) - 1) << self.start

    def overlaps(self, other: "Placement") -> bool:
        return bool(self.mask & other.mask)


class MediaEngines(NamedTuple):
    """Numbers of video decoders, video encoders, JPEG decoders and optical flow accelerators (OFA)."""

    decoders: int = 0
    encoders: int = 0
    jpegs: int = 0
    ofas: int = 0

    def minus(self, used: "MediaEngines") -> "MediaEngines":
        return MediaEngines(*(total - part for total, part in zip(self, used, strict=True)))

    def plus(self, freed: "MediaEngines") -> "MediaEngines":
        return MediaEngines(*(free + part for free, part in zip(self, freed, strict=True)))

    def covers(self, wanted: "MediaEngines") -> bool:
        return all(free >= needed for free, needed in zip(self, wanted, strict=True))


@dataclass(frozen=True, slots=True)
class Profile:
    """A MIG profile of one GPU.

    `driver_id` is valid for this GPU only. `max_instances` is how many an empty GPU holds. `engines` are the
    media engines that one instance uses alone.
    """

    name: str
    driver_id: int
    compute_slices: int
    memory_mib: int
    max_instances: int
    placements: tuple[Placement, ...]
    engines: MediaEngines = MediaEngines()


FULL = "full"  # the profile of a GPU without MIG that is leased whole
WHOLE = Placement(0, 1)  # a GPU without MIG counts as one memory slice and one compute slice


def whole_profile(memory_mib: int) -> Profile:
    """Return the only profile of a GPU without MIG. It exists in the gateway only, so it has no driver id."""
    return Profile(FULL, -1, 1, memory_mib, 1, (WHOLE,))


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
    """One GPU as its driver describes it.

    `fault` is a few words on why the GPU must not be used, None if it may be used. `complete` is False if the
    driver's free capacity shows that instances are missing from its list. `node` is the GPU's node in a
    cluster, None on one server, and `node_index` the driver's number of the GPU there.
    """

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
    node: str | None = None
    node_index: int | None = None

    @property
    def label(self) -> str:
        """How requests name the GPU. In a cluster an index changes when nodes come and go, so it is
        NODE/INDEX, or the UUID if the driver gives no number."""
        if self.node is None:
            return str(self.index)
        return self.uuid if self.node_index is None else f"{self.node}/{self.node_index}"

    @property
    def kind(self) -> tuple[object, ...]:
        """What GPUs with the same profiles have in common. It has only the names of the profiles: with 1,000
        GPUs, hashing whole profiles would take longer than the rest of a choice."""
        names = tuple([profile.name for profile in self.profiles])
        return (self.name, self.memory_slices, self.compute_slices, names)

    @property
    def is_whole(self) -> bool:
        """Whether the GPU is leased as a whole: it has no MIG, and the gateway may lease such GPUs."""
        without_mig = self.mig_mode in (MigMode.DISABLED, MigMode.UNSUPPORTED)
        return without_mig and self.profile(FULL) is not None

    @property
    def is_leasable(self) -> bool:
        """Whether slices can be made on the GPU, or it is leased whole."""
        return self.mig_mode is MigMode.ENABLED or self.is_whole

    def profile(self, name: str) -> Profile | None:
        return next((profile for profile in self.profiles if profile.name == name), None)


@dataclass(frozen=True, slots=True)
class FreeCapacity:
    """The free capacity of one GPU: the free memory slices as a mask, the free compute slices and media
    engines. `standing` are the profile names of the instances on it, sorted."""

    mask: int
    compute: int
    engines: MediaEngines
    standing: tuple[str, ...] = ()

    @classmethod
    def of(cls, gpu: Gpu) -> "FreeCapacity":
        """Return the capacity of `gpu` when it is empty."""
        return cls((1 << gpu.memory_slices) - 1, gpu.compute_slices, _all_engines(gpu.profiles))

    def without(self, name: str, profile: Profile | None, placement: Placement) -> "FreeCapacity":
        """Return what is left beside one more `name`; `profile` is None if the GPU does not offer it."""
        return FreeCapacity(
            mask=self.mask & ~placement.mask,
            compute=self.compute - (profile.compute_slices if profile else 0),
            engines=self.engines.minus(profile.engines) if profile else self.engines,
            standing=tuple(sorted((*self.standing, name))),
        )

    def freed(self, name: str, profile: Profile | None, placement: Placement) -> "FreeCapacity":
        """Return what is left without one `name` at `placement`, the inverse of `without`."""
        standing = list(self.standing)
        standing.remove(name)
        return FreeCapacity(
            mask=self.mask | placement.mask,
            compute=self.compute + (profile.compute_slices if profile else 0),
            engines=self.engines.plus(profile.engines) if profile else self.engines,
            standing=tuple(standing),
        )

    def places(self, profile: Profile) -> list[Placement]:
        """Return where `profile` fits, the lowest start first: the memory interval is free, enough compute
        slices and media engines are left, and fewer than `max_instances` exist."""
        if self.compute < profile.compute_slices or not self.engines.covers(profile.engines):
            return []
        if self.standing.count(profile.name) >= profile.max_instances:
            return []
        return sorted(place for place in profile.placements if place.mask & ~self.mask == 0)

    def count(self, profile: Profile) -> int:
        """Return how many of `profile` fit, if no other profile is created."""
        places = self.places(profile)  # all of one size, so the lowest first is optimal
        return 1 + self.without(profile.name, profile, places[0]).count(profile) if places else 0


def _all_engines(profiles: Iterable[Profile]) -> MediaEngines:
    """The engines of an empty GPU. NVML does not report them, but an empty GPU holds `max_instances` of each
    profile, so it has the engines for that many. The largest profile alone does not show them: on a B200 the
    7g has one decoder, and each of seven 1g has one too."""
    needs = [[count * profile.max_instances for count in profile.engines] for profile in profiles]
    return MediaEngines(*map(max, zip(*needs, strict=True)))


def host_share(on: Gpu, placement: Placement, gpus: Iterable[Gpu]) -> float:
    """Return the part of the memory slices of all GPUs that a placement on the GPU `on` occupies. A whole GPU
    counts as eight."""
    total = sum(gpu.memory_slices * _slice_weight(gpu) for gpu in gpus)
    return placement.size * _slice_weight(on) / total if total else 0.0


def _slice_weight(gpu: Gpu) -> int:
    return 8 if gpu.is_whole else 1
