"""The profiles of each kind of GPU, against the tables of NVIDIA."""

from pathlib import Path
from typing import Any

import pynvml
import pytest

from tests.unit.simulated_driver.conftest import driver, offered, room, starts

# name: (NVML constant, driver id, starts, size, most on an empty GPU, compute slices, MiB)
Table = dict[str, tuple[int, int, tuple[int, ...], int, int, int, int]]
SEVEN = (0, 1, 2, 3, 4, 5, 6)
A100_40: Table = {
    "1g.5gb": (0, 19, SEVEN, 1, 7, 1, 4864),
    "2g.10gb": (1, 14, (0, 2, 4), 2, 3, 2, 9856),
    "3g.20gb": (2, 9, (0, 4), 4, 2, 3, 19968),
    "4g.20gb": (3, 5, (0,), 4, 1, 4, 19968),
    "7g.40gb": (4, 0, (0,), 8, 1, 7, 40192),
    "1g.5gb+me": (7, 20, SEVEN, 1, 1, 1, 4864),
    "1g.10gb": (9, 15, (0, 2, 4, 6), 2, 4, 1, 9856),
}
A100_80: Table = {
    "1g.10gb": (0, 19, SEVEN, 1, 7, 1, 9856),
    "2g.20gb": (1, 14, (0, 2, 4), 2, 3, 2, 19968),
    "3g.40gb": (2, 9, (0, 4), 4, 2, 3, 40192),
    "4g.40gb": (3, 5, (0,), 4, 1, 4, 40192),
    "7g.80gb": (4, 0, (0,), 8, 1, 7, 80384),
    "1g.10gb+me": (7, 20, SEVEN, 1, 1, 1, 9856),
    "1g.20gb": (9, 15, (0, 2, 4, 6), 2, 4, 1, 19968),
}
A30: Table = {
    "1g.6gb": (0, 14, (0, 1, 2, 3), 1, 4, 1, 5952),
    "2g.12gb": (1, 5, (0, 2), 2, 2, 2, 11968),
    "4g.24gb": (3, 0, (0,), 4, 1, 4, 24000),
    "1g.6gb+me": (7, 21, (0, 1, 2, 3), 1, 1, 1, 5952),
    "2g.12gb+me": (8, 6, (0, 2), 2, 1, 2, 11968),
}
RTX: Table = {
    "1g.24gb": (0, 14, (0, 3, 6, 9), 3, 4, 1, 24192),
    "2g.48gb": (1, 5, (0, 6), 6, 2, 2, 48512),
    "4g.96gb": (3, 0, (0,), 12, 1, 4, 97280),
    "1g.24gb+me": (7, 21, (0, 3, 6, 9), 3, 1, 1, 24192),
    "1g.24gb+gfx": (0xA, 47, (0, 3, 6, 9), 3, 4, 1, 24192),
    "2g.48gb+gfx": (0xB, 35, (0, 6), 6, 2, 2, 48512),
    "4g.96gb+gfx": (0xC, 32, (0,), 12, 1, 4, 97280),
    "1g.24gb-me": (0xD, 67, (0, 3, 6, 9), 3, 4, 1, 24192),
    "2g.48gb-me": (0xE, 66, (0, 6), 6, 2, 2, 48512),
    "1g.24gb+me.all": (0xF, 65, (0, 3, 6, 9), 3, 1, 1, 24192),
    "2g.48gb+me.all": (0x10, 64, (0, 6), 6, 1, 2, 48512),
}
TABLES = {"A100-40GB": A100_40, "A100-80GB": A100_80, "A30": A30, "RTX-PRO-6000": RTX}
# In the order of the A100 tables above, which these kinds are cut like.
NAMES = {
    "H100-80GB": "1g.10gb 2g.20gb 3g.40gb 4g.40gb 7g.80gb 1g.10gb+me 1g.20gb",
    "H100-94GB": "1g.12gb 2g.24gb 3g.47gb 4g.47gb 7g.94gb 1g.12gb+me 1g.24gb",
    "H100-96GB": "1g.12gb 2g.24gb 3g.48gb 4g.48gb 7g.96gb 1g.12gb+me 1g.24gb",
    "H200-141GB": "1g.18gb 2g.35gb 3g.71gb 4g.71gb 7g.141gb 1g.18gb+me 1g.35gb",
    "B200-180GB": "1g.23gb 2g.45gb 3g.90gb 4g.90gb 7g.180gb 1g.23gb+me 1g.45gb",
}
# Decoders, encoders, JPEG decoders and optical flow accelerators of each profile, as in the tables above.
AMPERE = ["0000", "1000", "2000", "2000", "5011", "1011", "1000"]
HOPPER = ["1010", "2020", "3030", "4040", "7071", "1011", "1010"]
ENGINES = {
    "A100-40GB": AMPERE,
    "A100-80GB": AMPERE,
    "A30": ["0000", "2000", "4011", "1011", "2011"],
    "H100-80GB": HOPPER,
    "H100-94GB": HOPPER,
    "H100-96GB": HOPPER,
    "H200-141GB": HOPPER,
    "B200-180GB": ["1010", "1010", "1010", "1010", "1011", "1011", "1010"],
    "RTX-PRO-6000": "1110 2220 4441 1111 1110 2220 4441 0000 0000 4441 4441".split(),
}


def table(gpu: Any) -> Table:
    return {
        name: (
            constant,
            info.id,
            *starts(gpu, info.id),
            info.instanceCount,
            info.sliceCount,
            info.memorySizeMB,
        )
        for name, (constant, info) in offered(gpu).items()
    }


@pytest.mark.parametrize("kind", TABLES)
def test_a_gpu_offers_exactly_the_profiles_of_its_kind(kind: str, state_file: Path) -> None:
    with driver(f"1x{kind}", state_file):
        assert table(pynvml.nvmlDeviceGetHandleByIndex(0)) == TABLES[kind]


@pytest.mark.parametrize("kind", NAMES)
def test_seven_slice_gpus_are_cut_alike_and_named_by_their_memory(kind: str, state_file: Path) -> None:
    with driver(f"1x{kind}", state_file):
        found = table(pynvml.nvmlDeviceGetHandleByIndex(0))
    assert list(found) == NAMES[kind].split()
    assert [row[:6] for row in found.values()] == [row[:6] for row in A100_40.values()]


@pytest.mark.parametrize("kind", [*TABLES, *NAMES])
def test_an_empty_gpu_has_room_for_as_many_as_each_profile_says(kind: str, state_file: Path) -> None:
    with driver(f"1x{kind}", state_file):
        gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
        assert room(gpu) == {name: info.instanceCount for name, (_, info) in offered(gpu).items()}


@pytest.mark.parametrize("kind", ENGINES)
def test_each_profile_takes_its_media_engines(kind: str, state_file: Path) -> None:
    with driver(f"1x{kind}", state_file):
        found = offered(pynvml.nvmlDeviceGetHandleByIndex(0)).values()
    engines = [(info.decoderCount, info.encoderCount, info.jpegCount, info.ofaCount) for _, info in found]
    assert ["".join(map(str, counts)) for counts in engines] == ENGINES[kind]


def test_names_carry_the_drivers_prefix(gpu: Any) -> None:
    assert pynvml.nvmlDeviceGetGpuInstanceProfileInfo(gpu, 2, version=2).name == "MIG 3g.20gb"


def test_a_profile_is_found_by_its_id_too(gpu: Any) -> None:
    assert pynvml.nvmlDeviceGetGpuInstanceProfileInfoById(gpu, 9).name == "MIG 3g.20gb"


def test_the_same_driver_id_is_another_profile_on_another_kind(state_file: Path) -> None:
    with driver("1xA100-40GB,1xA30", state_file):
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in (0, 1)]
        names = [pynvml.nvmlDeviceGetGpuInstanceProfileInfoById(handle, 14).name for handle in handles]
    assert names == ["MIG 2g.10gb", "MIG 1g.6gb"]
