"""GPUs in the form in which NVIDIA's DRA driver publishes them: ResourceSlices with partitionable devices."""

from collections.abc import Iterator, Sequence
from typing import Any

from gateway.domain.mig import Gpu, MediaEngines, Placement, Profile

DRIVER = "gpu.nvidia.com"
_ENGINES = ("decoders", "encoders", "jpegEngines", "ofaEngines")
_COUNTERS = ("decoders", "encoders", "jpeg-engines", "ofa-engines")


def slices(node: str, gpus: Sequence[Gpu]) -> Iterator[dict[str, Any]]:
    """Return the ResourceSlices of one node: the counters of all GPUs, and then the devices of each GPU."""
    pool = {"name": node, "generation": 1, "resourceSliceCount": 1 + len(gpus)}
    yield _slice(f"{node}-counters", node, pool, sharedCounters=[_counter_set(gpu) for gpu in gpus])
    for gpu in gpus:
        yield _slice(f"{node}-{gpu.index}", node, pool, devices=[_whole(gpu), *_devices(gpu)])


def device_classes(gpus: Sequence[Gpu], prefix: str = "mig-") -> Iterator[dict[str, Any]]:
    """Return a DeviceClass for each profile: its one selector names driver and profile."""
    for name in sorted({profile.name for gpu in gpus for profile in gpu.profiles}):
        driver, attributes = f'device.driver == "{DRIVER}"', f'device.attributes["{DRIVER}"]'
        expression = f'{driver} && {attributes}.?profile.orValue("") == "{name}"'
        yield {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "DeviceClass",
            "metadata": {"name": f"{prefix}{name.replace('-', '-no-').replace('+', '-')}"},
            "spec": {"selectors": [{"cel": {"expression": expression}}]},
        }


def _slice(name: str, node: str, pool: dict[str, Any], **content: Any) -> dict[str, Any]:
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": name},
        "spec": {"driver": DRIVER, "nodeName": node, "pool": pool, **content},
    }


def _counter_set(gpu: Gpu) -> dict[str, Any]:
    every = [
        MediaEngines(*(count * profile.max_instances for count in profile.engines))
        for profile in gpu.profiles
    ]
    engines = [max(counts) for counts in zip(*every, strict=True)]
    counters = {
        "memory": f"{gpu.memory_mib}Mi",
        "multiprocessors": str(14 * gpu.compute_slices),
        **dict(zip(_COUNTERS, map(str, engines), strict=True)),
    }
    return {"name": f"gpu-{gpu.index}-counter-set", "counters": _values(counters, range(gpu.memory_slices))}


def _whole(gpu: Gpu) -> dict[str, Any]:
    consumed = {"counterSet": f"gpu-{gpu.index}-counter-set", "counters": _counter_set(gpu)["counters"]}
    return {
        "name": f"gpu-{gpu.index}",
        "attributes": _attributes(gpu, type="gpu", uuid=gpu.uuid),
        "capacity": _values({"memory": f"{gpu.memory_mib}Mi"}),
        "consumesCounters": [consumed],
    }


def _devices(gpu: Gpu) -> Iterator[dict[str, Any]]:
    for profile in gpu.profiles:
        for placement in profile.placements:
            yield _device(gpu, profile, placement)


def _device(gpu: Gpu, profile: Profile, placement: Placement) -> dict[str, Any]:
    sizes = {"memory": f"{profile.memory_mib}Mi", "multiprocessors": str(14 * profile.compute_slices)}
    consumed = {**sizes, **dict(zip(_COUNTERS, map(str, profile.engines), strict=True))}
    memory_slices = range(placement.start, placement.start + placement.size)
    return {
        "name": device_name(gpu, profile, placement),
        "attributes": _attributes(gpu, type="mig", parentUUID=gpu.uuid, profile=profile.name),
        "capacity": _values({**sizes, **dict(zip(_ENGINES, map(str, profile.engines), strict=True))}),
        "consumesCounters": [
            {"counterSet": f"gpu-{gpu.index}-counter-set", "counters": _values(consumed, memory_slices)}
        ],
    }


def device_name(gpu: Gpu, profile: Profile, placement: Placement) -> str:
    name = profile.name.replace(".", "").replace("+", "-")
    return f"gpu-{gpu.index}-mig-{name}-{profile.driver_id}-{placement.start}"


def _attributes(gpu: Gpu, **texts: str) -> dict[str, Any]:
    attributes: dict[str, Any] = {name: {"string": text} for name, text in texts.items()}
    return {**attributes, "productName": {"string": gpu.name}, "simulated": {"bool": gpu.simulated}}


def _values(amounts: dict[str, str], memory_slices: Sequence[int] = ()) -> dict[str, Any]:
    counters = {**amounts, **{f"memory-slice-{index}": "1" for index in memory_slices}}
    return {name: {"value": value} for name, value in counters.items()}
