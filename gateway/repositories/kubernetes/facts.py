"""What the objects of a cluster say, as the gateway's own values. Pure."""

import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from gateway.domain.gpu_pool import GpuPool
from gateway.domain.mig import Gpu, MediaEngines, MigMode, Placement, Profile
from gateway.repositories.kubernetes.api import Object
from gateway.repositories.kubernetes.objects import (
    DRIVER,
    SIMULATED,
)

_MEMORY_SLICE = re.compile(r"memory-?slice-?([0-9]+)", re.IGNORECASE)
_COMPUTE = re.compile(r"([0-9]+)g\.")
_OF_GPU = re.compile(r"gpu-([0-9]+)(?:-|$)")
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)([kKMGTPE]i?|m)?")
_UNITS = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18} | {
    f"{letter}i": 2.0 ** (10 * power) for power, letter in enumerate("KMGTPE", 1)
}
_CLOSING = ("NoSchedule", "NoExecute")  # effects of taints that keep new pods away


def url_of(service: Object | None) -> str | None:
    """Return where pods reach a Service; None if it has no address."""
    spec = (service or {}).get("spec") or {}
    address, ports = spec.get("clusterIP"), spec.get("ports") or []
    if address in (None, "", "None") or not ports:
        return None
    host = f"[{address}]" if ":" in address else address
    return f"http://{host}:{ports[0]['port']}"


def is_served(endpoints: Object) -> bool:
    """Whether a pod of an EndpointSlice takes connections. One without the condition does."""
    conditions = [each.get("conditions") or {} for each in endpoints.get("endpoints") or ()]
    return any(each.get("ready") is not False for each in conditions)


@dataclass(frozen=True, slots=True)
class DeviceName:
    """A device, as a ResourceClaim's allocation names it."""

    pool: str
    device: str


def allocated(found: Object | None) -> DeviceName | None:
    """Return the device that a ResourceClaim was given; None before."""
    allocation = ((found or {}).get("status") or {}).get("allocation") or {}
    results = (allocation.get("devices") or {}).get("results") or []
    return DeviceName(results[0]["pool"], results[0]["device"]) if results else None


@dataclass(frozen=True, slots=True)
class Device:
    """A slice that a driver can make, or a standing one, which has a UUID."""

    gpu: str
    profile: str
    placement: Placement
    mig_uuid: str | None = None
    is_simulated: bool = False


@dataclass(frozen=True, slots=True)
class Pool:
    """What the slices of one pool say: its GPUs, of which only the drivers' faults are known, and its devices
    by their names."""

    node: str
    gpus: Sequence[Gpu]
    devices: Mapping[str, Device]


class Devices(Mapping[DeviceName, Device]):
    """The devices of all pools. A thousand nodes have 200,000, so there is no second index of them."""

    def __init__(self, pools: Mapping[str, Pool]) -> None:
        self._pools = pools

    def __getitem__(self, name: DeviceName) -> Device:
        return self._pools[name.pool].devices[name.device]

    def __iter__(self) -> Iterator[DeviceName]:
        return (DeviceName(name, device) for name, pool in self._pools.items() for device in pool.devices)

    def __len__(self) -> int:
        return sum(len(pool.devices) for pool in self._pools.values())


@dataclass(frozen=True, slots=True)
class Inventory:
    """The GPUs of a cluster without their instances, and the slices that they can have. `faults` are those
    that the drivers report, by the UUID of the GPU."""

    gpus: GpuPool = GpuPool()
    faults: Mapping[str, str] = field(default_factory=dict)
    devices: Mapping[DeviceName, Device] = field(default_factory=dict)


@dataclass
class _Card:
    """What the devices of one GPU say together."""

    uuid: str
    node: str
    node_index: int | None = None
    name: str = ""
    memory_mib: int = 0
    fault: str | None = None
    is_simulated: bool = False
    counters: Mapping[str, int] = field(default_factory=dict)
    profiles: dict[str, list[tuple[Object, Placement]]] = field(default_factory=lambda: defaultdict(list))


def inventory(slices: Iterable[Object], nodes: Iterable[Object], rules: Iterable[Object] = ()) -> Inventory:
    """Read NVIDIA's ResourceSlices. A GPU on a node that takes no pods has a fault, and so has one of which
    DeviceTaintRules close each slice."""
    return inventory_of(pools(slices), node_faults(nodes), closing(rules))


def node_faults(nodes: Iterable[Object]) -> Mapping[str, str]:
    """Return why nodes take no pods, by their names."""
    return {node["metadata"]["name"]: fault for node in nodes if (fault := _node_fault(node))}


def closing(rules: Iterable[Object]) -> Sequence[Object]:
    """Return the DeviceTaintRules that keep pods off devices, without what changes when nothing else does."""
    return [
        {"metadata": {"name": rule["metadata"]["name"]}, "spec": rule["spec"]}
        for rule in rules
        if _closes(rule)
    ]


def inventory_of(
    pools: Mapping[str, Pool], faults: Mapping[str, str], rules: Sequence[Object] = ()
) -> Inventory:
    """As `inventory`."""
    devices = Devices(pools)
    found = sorted(
        (gpu for pool in pools.values() for gpu in pool.gpus),
        key=lambda gpu: (gpu.node, gpu.node_index or 0, gpu.uuid),
    )
    closed = _closed(devices, rules)
    gpus = GpuPool(
        replace(gpu, index=index, fault=gpu.fault or faults.get(str(gpu.node)) or closed.get(gpu.uuid))
        for index, gpu in enumerate(found)
    )
    return Inventory(gpus, {gpu.uuid: gpu.fault for gpu in found if gpu.fault}, devices)


def pools(slices: Iterable[Object]) -> Mapping[str, Pool]:
    """Read the pools of the slices, each in its newest generation. Of a pool that is whole, nothing else is
    kept: ten thousand slices take a gigabyte."""
    read: dict[str, Pool] = {}
    generations: dict[str, int] = {}
    parts: dict[str, list[Object]] = {}
    same: dict[Any, Any] = {}
    for found in slices:
        pool = found["spec"]["pool"]
        name, generation = pool["name"], _generation(found)
        if found["spec"].get("driver") != DRIVER or generation < generations.get(name, generation):
            continue
        if generation > generations.get(name, generation):
            parts.pop(name, None)
        generations[name] = generation
        pieces = parts.setdefault(name, [])
        pieces.append(found)
        if len(pieces) == pool.get("resourceSliceCount"):
            read[name] = _pool(name, parts.pop(name), same)
    return {**read, **{name: _pool(name, pieces, same) for name, pieces in parts.items()}}


def _pool(name: str, pieces: Sequence[Object], same: dict[Any, Any]) -> Pool:
    """Equal profiles and places of all pools are one object, by `same`."""
    cards: dict[str, _Card] = {}
    devices: dict[str, Device] = {}
    counters, node = counter_sets(pieces), _node_of(name, pieces)
    for each in (device for piece in pieces for device in piece["spec"].get("devices") or ()):
        if (made := _read(each, node, cards, counters)) is not None:
            placement = same.setdefault(made.placement, made.placement)
            devices[sys.intern(each["name"])] = replace(
                made, gpu=cards[made.gpu].uuid, profile=sys.intern(made.profile), placement=placement
            )
    gpus = [_gpu(card) for card in cards.values()]
    return Pool(
        node,
        [
            replace(gpu, profiles=same.setdefault(gpu.profiles, gpu.profiles), name=sys.intern(gpu.name))
            for gpu in gpus
        ],
        devices,
    )


def _closed(devices: Mapping[DeviceName, Device], rules: Sequence[Object]) -> Mapping[str, str]:
    """Return the GPUs that have no slice without a taint, and which rule has the last one."""
    by: dict[str, str] = {}
    is_open: set[str] = set()
    for name, device in devices.items() if rules else ():
        rule = next((rule for rule in rules if _selects(rule, name)), None)
        if rule is None:
            is_open.add(device.gpu)
        else:
            by[device.gpu] = f"tainted by the DeviceTaintRule {rule['metadata']['name']}"
    return {gpu: fault for gpu, fault in by.items() if gpu not in is_open}


def _closes(rule: Object) -> bool:
    return ((rule.get("spec") or {}).get("taint") or {}).get("effect") in _CLOSING


def _selects(rule: Object, name: DeviceName) -> bool:
    """A rule without a selector selects nothing, one with an empty selector everything."""
    selector = rule["spec"].get("deviceSelector")
    if selector is None:
        return False
    of_device = {"driver": DRIVER, "pool": name.pool, "device": name.device}
    return all(selector.get(field) in (None, value) for field, value in of_device.items())


def newest(slices: Iterable[Object]) -> dict[str, list[Object]]:
    """The slices of each pool, of its newest generation: a driver replaces a pool piece by piece."""
    pools: dict[str, list[Object]] = defaultdict(list)
    for found in slices:
        if found["spec"].get("driver") == DRIVER:
            pools[found["spec"]["pool"]["name"]].append(found)

    return {
        name: [piece for piece in pieces if _generation(piece) == max(map(_generation, pieces))]
        for name, pieces in pools.items()
    }


def _generation(found: Object) -> int:
    return int(found["spec"]["pool"].get("generation") or 0)


def _node_of(pool: str, pieces: Sequence[Object]) -> str:
    """Drivers name a pool after its node, and say the node as well."""
    return next((str(piece["spec"]["nodeName"]) for piece in pieces if piece["spec"].get("nodeName")), pool)


def counter_sets(pieces: Sequence[Object]) -> dict[str, Mapping[str, int]]:
    return {
        each["name"]: {name: number(value) for name, value in each["counters"].items()}
        for piece in pieces
        for each in piece["spec"].get("sharedCounters") or ()
    }


def _read(
    found: Object, node: str, cards: dict[str, _Card], counters: Mapping[str, Mapping[str, int]]
) -> Device | None:
    """Add the device to its card. Return it if it is a slice."""
    facts = _attributes(found)
    is_slice = facts.get("type") == "mig"
    uuid = str(facts.get("parentUUID" if is_slice else "uuid") or "")
    if not uuid:
        return None
    card = cards.setdefault(uuid, _Card(uuid, node, _index_on_node(found["name"])))
    card.name = card.name or str(facts.get("productName") or "")
    card.is_simulated = card.is_simulated or facts.get(SIMULATED) is True
    card.fault = card.fault or _taint(found)
    for consumed in found.get("consumesCounters") or ():
        card.counters = card.counters or counters.get(consumed["counterSet"], {})
    if not is_slice:
        card.memory_mib = _mebibytes(found)
        return None
    placement, profile = _placement(found), str(facts.get("profile") or "")
    if placement is None or not profile:
        return None
    card.profiles[profile].append((found, placement))
    standing = str(facts["uuid"]) if facts.get("uuid") else None
    return Device(uuid, profile, placement, standing, card.is_simulated)


def _index_on_node(device: str) -> int | None:
    """The driver names devices after the number of their GPU, such as gpu-0-mig-3g20gb-9-0."""
    match = _OF_GPU.match(device)
    return int(match[1]) if match else None


def _attributes(found: Object) -> dict[str, Any]:
    """The values of attributes, without the driver's name in front."""
    given = found.get("attributes") or {}
    return {name.rpartition("/")[2]: next(iter(value.values()), None) for name, value in given.items()}


def _placement(found: Object) -> Placement | None:
    """The memory slices: counters of a slice that is made for a claim, capacities of one that stands."""
    consumed = [name for each in found.get("consumesCounters") or () for name in each["counters"]]
    names = [*consumed, *(found.get("capacity") or {})]
    numbers = {int(match[1]) for name in names if (match := _MEMORY_SLICE.fullmatch(name))}
    return Placement(min(numbers), len(numbers)) if numbers else None


def _gpu(card: _Card) -> Gpu:
    profiles = tuple(_profile(name, made, card) for name, made in sorted(card.profiles.items()))
    ends = [place.start + place.size for profile in profiles for place in profile.placements]
    slices = sum(1 for name in card.counters if _MEMORY_SLICE.fullmatch(name))
    return Gpu(
        index=0,
        uuid=card.uuid,
        name=card.name,
        memory_mib=card.memory_mib or max((profile.memory_mib for profile in profiles), default=0),
        mig_mode=MigMode.ENABLED if profiles else MigMode.DISABLED,
        memory_slices=slices or max(ends, default=0),
        compute_slices=max((profile.compute_slices for profile in profiles), default=0),
        profiles=profiles,
        instances=(),
        fault=card.fault,
        simulated=card.is_simulated,
        node=card.node,
        node_index=card.node_index,
    )


def _profile(name: str, made: Sequence[tuple[Object, Placement]], card: _Card) -> Profile:
    one, places = made[0][0], tuple(sorted({placement for _, placement in made}))
    compute = _COMPUTE.match(name)
    capacity = {key.rpartition("/")[2]: number(value) for key, value in (one.get("capacity") or {}).items()}
    engines = MediaEngines(*(capacity.get(key, 0) for key in _ENGINES))
    return Profile(
        name=name,
        driver_id=_NO_ID,
        compute_slices=int(compute[1]) if compute else 1,
        memory_mib=_mebibytes(one),
        max_instances=_most(one, places, card),
        placements=places,
        engines=engines,
    )


_NO_ID = -1  # a cluster does not publish the driver's numbers of profiles
_ENGINES = ("decoders", "encoders", "jpegEngines", "ofaEngines")


def _most(one: Object, places: Sequence[Placement], card: _Card) -> int:
    """How many slices of a profile an empty GPU holds: as many as do not overlap, and as the counters
    allow."""
    most, end = 0, 0
    for place in places:
        if place.start >= end:
            most, end = most + 1, place.start + place.size
    for consumed in one.get("consumesCounters") or ():
        for name, value in consumed["counters"].items():
            needed, total = number(value), card.counters.get(name)
            if needed and total is not None and not _MEMORY_SLICE.fullmatch(name):
                most = min(most, total // needed)
    return most


def _mebibytes(found: Object) -> int:
    memory = (found.get("capacity") or {}).get("memory")
    return number(memory) // 2**20 if memory else 0


def _taint(found: Object) -> str | None:
    for taint in found.get("taints") or ():
        if taint.get("effect") in _CLOSING:
            return f"tainted with {taint['key']}" + (f"={taint['value']}" if taint.get("value") else "")
    return None


def _node_fault(node: Object) -> str | None:
    name = node["metadata"]["name"]
    if (node.get("spec") or {}).get("unschedulable"):
        return f"its node {name} is cordoned"
    conditions = (node.get("status") or {}).get("conditions") or ()
    ready = next((each.get("status") for each in conditions if each["type"] == "Ready"), "True")
    return None if ready == "True" else f"its node {name} is not ready"


def number(value: Any) -> int:
    """Return a quantity such as `20Gi`, alone or as the value of a counter or capacity."""
    text = str(value["value"] if isinstance(value, Mapping) else value)
    found = _QUANTITY.fullmatch(text)
    if found is None:
        return 0
    return int(float(found[1]) * _UNITS[found[2] or ""])


def moment(text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
