"""The kinds of GPU that can be simulated, as data.

The tables are from NVIDIA's MIG user guide. A profile's name has its compute slices, its memory and a suffix.
GPUs that are divided in the same way therefore share one table; they differ in the memory and the media
engines of each profile.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.domain.mig import MediaEngines
from gateway.errors import StartRefused

MOST_GPUS = 64


@dataclass(frozen=True, slots=True)
class KindProfile:
    """`constant` is the NVML_GPU_INSTANCE_PROFILE_* of the profile, `driver_id` its id on the device, `size`
    and `starts` are its placements in memory slices, `engines` are the media engines that it uses."""

    constant: int
    driver_id: int
    name: str
    compute_slices: int
    size: int
    starts: tuple[int, ...]
    max_instances: int
    memory_mib: int
    engines: MediaEngines


@dataclass(frozen=True, slots=True)
class Kind:
    """`engines` are all media engines of the GPU. `has_gpm`: its performance can be monitored by GPM, which
    Hopper and later GPUs have."""

    name: str
    product: str
    memory_mib: int
    profiles: tuple[KindProfile, ...] = ()
    engines: MediaEngines = MediaEngines()
    has_gpm: bool = False

    @property
    def compute_slices(self) -> int:
        return max((profile.compute_slices for profile in self.profiles), default=0)

    @property
    def memory_slices(self) -> int:
        return max((profile.size for profile in self.profiles), default=0)


@dataclass(frozen=True, slots=True)
class _Cut:
    """A profile without its memory; `engines` are decoders, encoders, JPEG decoders and OFAs."""

    constant: int
    driver_id: int
    compute_slices: int
    size: int
    starts: tuple[int, ...]
    max_instances: int
    engines: tuple[int, int, int, int]
    suffix: str = ""


_SEVEN = (0, 1, 2, 3, 4, 5, 6)


def _sevenths_cuts(*engines: tuple[int, int, int, int]) -> tuple[_Cut, ...]:
    """Profiles of seven compute and eight memory slices. `engines` are in the order of the profiles below."""
    small, two, three, four, seven, media, wide = engines
    return (
        _Cut(0x0, 19, 1, 1, _SEVEN, 7, small),
        _Cut(0x1, 14, 2, 2, (0, 2, 4), 3, two),
        _Cut(0x2, 9, 3, 4, (0, 4), 2, three),
        _Cut(0x3, 5, 4, 4, (0,), 1, four),
        _Cut(0x4, 0, 7, 8, (0,), 1, seven),
        _Cut(0x7, 20, 1, 1, _SEVEN, 1, media, "+me"),
        _Cut(0x9, 15, 1, 2, (0, 2, 4, 6), 4, wide),
    )


_AMPERE = _sevenths_cuts(
    (0, 0, 0, 0), (1, 0, 0, 0), (2, 0, 0, 0), (2, 0, 0, 0), (5, 0, 1, 1), (1, 0, 1, 1), (1, 0, 0, 0)
)
_HOPPER = _sevenths_cuts(
    (1, 0, 1, 0), (2, 0, 2, 0), (3, 0, 3, 0), (4, 0, 4, 0), (7, 0, 7, 1), (1, 0, 1, 1), (1, 0, 1, 0)
)
_BLACKWELL = _sevenths_cuts(
    (1, 0, 1, 0), (1, 0, 1, 0), (1, 0, 1, 0), (1, 0, 1, 0), (1, 0, 1, 1), (1, 0, 1, 1), (1, 0, 1, 0)
)

_A30_QUARTERS = (
    _Cut(0x0, 14, 1, 1, (0, 1, 2, 3), 4, (0, 0, 0, 0)),
    _Cut(0x1, 5, 2, 2, (0, 2), 2, (2, 0, 0, 0)),
    _Cut(0x3, 0, 4, 4, (0,), 1, (4, 0, 1, 1)),
    _Cut(0x7, 21, 1, 1, (0, 1, 2, 3), 1, (1, 0, 1, 1), "+me"),
    _Cut(0x8, 6, 2, 2, (0, 2), 1, (2, 0, 1, 1), "+me"),
)

_RTX_QUARTERS = (
    _Cut(0x0, 14, 1, 3, (0, 3, 6, 9), 4, (1, 1, 1, 0)),
    _Cut(0x1, 5, 2, 6, (0, 6), 2, (2, 2, 2, 0)),
    _Cut(0x3, 0, 4, 12, (0,), 1, (4, 4, 4, 1)),
    _Cut(0x7, 21, 1, 3, (0, 3, 6, 9), 1, (1, 1, 1, 1), "+me"),
    _Cut(0xA, 47, 1, 3, (0, 3, 6, 9), 4, (1, 1, 1, 0), "+gfx"),
    _Cut(0xB, 35, 2, 6, (0, 6), 2, (2, 2, 2, 0), "+gfx"),
    _Cut(0xC, 32, 4, 12, (0,), 1, (4, 4, 4, 1), "+gfx"),
    _Cut(0xD, 67, 1, 3, (0, 3, 6, 9), 4, (0, 0, 0, 0), "-me"),
    _Cut(0xE, 66, 2, 6, (0, 6), 2, (0, 0, 0, 0), "-me"),
    _Cut(0xF, 65, 1, 3, (0, 3, 6, 9), 1, (4, 4, 4, 1), "+me.all"),
    _Cut(0x10, 64, 2, 6, (0, 6), 1, (4, 4, 4, 1), "+me.all"),
)

# For each size in memory slices: the gigabytes in the profile's name, and its memory in MiB.
_Pieces = Mapping[int, tuple[int, int]]
_Four = tuple[int, int, int, int]


def _profile(cut: _Cut, gigabytes: int, memory_mib: int) -> KindProfile:
    return KindProfile(
        constant=cut.constant,
        driver_id=cut.driver_id,
        name=f"{cut.compute_slices}g.{gigabytes}gb{cut.suffix}",
        compute_slices=cut.compute_slices,
        size=cut.size,
        starts=cut.starts,
        max_instances=cut.max_instances,
        memory_mib=memory_mib,
        engines=MediaEngines(*cut.engines),
    )


def _kind(
    name: str,
    product: str,
    memory_mib: int,
    cuts: tuple[_Cut, ...],
    pieces: _Pieces,
    engines: tuple[int, int, int, int],
) -> Kind:
    profiles = tuple(_profile(cut, *pieces[cut.size]) for cut in cuts)
    return Kind(name, product, memory_mib, profiles, MediaEngines(*engines), not name.startswith("A"))


def _sevenths(name: str, product: str, memory_mib: int, gigabytes: _Four, mib: _Four) -> Kind:
    pieces = dict(zip((1, 2, 4, 8), zip(gigabytes, mib, strict=True), strict=True))
    family = next(family for family in _FAMILIES if name.startswith(family))
    return _kind(name, product, memory_mib, _FAMILIES[family][0], pieces, _FAMILIES[family][1])


# By the first letter of the kind's name: the profiles, and all media engines of such a GPU.
_FAMILIES: Mapping[str, tuple[tuple[_Cut, ...], _Four]] = {
    "A": (_AMPERE, (5, 0, 1, 1)),
    "H": (_HOPPER, (7, 0, 7, 1)),
    "B": (_BLACKWELL, (7, 0, 7, 1)),
}

KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        _sevenths("A100-40GB", "NVIDIA A100-SXM4-40GB", 40960, (5, 10, 20, 40), (4864, 9856, 19968, 40192)),
        _sevenths("A100-80GB", "NVIDIA A100-SXM4-80GB", 81920, (10, 20, 40, 80), (9856, 19968, 40192, 80384)),
        _kind(
            "A30",
            "NVIDIA A30",
            24576,
            _A30_QUARTERS,
            {1: (6, 5952), 2: (12, 11968), 4: (24, 24000)},
            (4, 0, 1, 1),
        ),
        _sevenths("H100-80GB", "NVIDIA H100 80GB HBM3", 81559, (10, 20, 40, 80), (9984, 20096, 40448, 81152)),
        _sevenths("H100-94GB", "NVIDIA H100 NVL", 95830, (12, 24, 47, 94), (11136, 22400, 46080, 94208)),
        _sevenths("H100-96GB", "NVIDIA GH200 480GB", 97871, (12, 24, 48, 96), (11264, 23040, 47104, 96256)),
        _sevenths("H200-141GB", "NVIDIA H200", 143771, (18, 35, 71, 141), (16384, 33280, 71168, 142848)),
        _sevenths("B200-180GB", "NVIDIA B200", 183359, (23, 45, 90, 180), (22016, 44544, 90112, 181248)),
        _kind(
            "RTX-PRO-6000",
            "NVIDIA RTX PRO 6000 Blackwell Server Edition",
            97887,
            _RTX_QUARTERS,
            {3: (24, 24192), 6: (48, 48512), 12: (96, 97280)},
            (4, 4, 4, 1),
        ),
        Kind("L4", "NVIDIA L4", 23034),
        Kind("T4", "Tesla T4", 15360),
    )
}


def parse_spec(spec: str) -> list[Kind]:
    """Parse `2xA100-40GB,1xL4`. Return one kind for each GPU, in that order. Raises `StartRefused`."""
    kinds = [kind for part in spec.split(",") for kind in _parse_part(part.strip())]
    if len(kinds) > MOST_GPUS:
        raise StartRefused(f"{spec!r} is {len(kinds)} GPUs; at most {MOST_GPUS} can be simulated.")
    return kinds


def _parse_part(part: str) -> list[Kind]:
    match = re.fullmatch(r"(\d{1,3})x(.+)", part, re.IGNORECASE | re.ASCII)
    kinds = {name.casefold(): kind for name, kind in KINDS.items()}
    kind = kinds.get(match[2].casefold()) if match else None
    if match is None or kind is None or not 1 <= int(match[1]) <= MOST_GPUS:
        raise StartRefused(
            f"{part!r} does not describe GPUs to simulate; write a number (1 to {MOST_GPUS}), an x and one "
            f"of {', '.join(KINDS)}, as in 2xA100-40GB, and separate several by commas."
        )
    return [kind] * int(match[1])
