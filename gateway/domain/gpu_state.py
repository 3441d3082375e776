"""The free capacity of GPUs as states with cached results: a pool has few different states. Pure."""

from collections.abc import Sequence
from functools import cached_property

from gateway.domain.mig import FreeCapacity, Gpu, Placement


class _Kind:
    """GPUs with the same profiles, and the states of such GPUs that were computed so far."""

    def __init__(self, gpu: Gpu) -> None:
        self.profiles = {profile.name: profile for profile in gpu.profiles}
        self._states: dict[FreeCapacity, GpuState] = {}
        self.empty = self.state(FreeCapacity.of(gpu))

    def state(self, capacity: FreeCapacity) -> "GpuState":
        if capacity not in self._states:
            self._states[capacity] = GpuState(self, capacity)
        return self._states[capacity]


class GpuState:
    """The free capacity of a GPU. `free` is its number of free memory slices."""

    def __init__(self, kind: _Kind, capacity: FreeCapacity) -> None:
        self.free = capacity.mask.bit_count()
        self._kind, self._capacity = kind, capacity
        self._places: dict[str, Sequence[Placement]] = {}
        self._after: dict[tuple[str, int, int], GpuState] = {}
        self._before: dict[tuple[str, int, int], GpuState] = {}

    @property
    def profiles(self) -> Sequence[str]:
        """The names of the GPU's profiles."""
        return list(self._kind.profiles)

    def places(self, name: str) -> Sequence[Placement]:
        if name not in self._places:
            profile = self._kind.profiles.get(name)
            self._places[name] = self._capacity.places(profile) if profile else []
        return self._places[name]

    def after(self, name: str, placement: Placement) -> "GpuState":
        """The state with a slice of the profile `name` at `placement`."""
        key = (name, placement.start, placement.size)
        if key not in self._after:
            capacity = self._capacity.without(name, self._kind.profiles.get(name), placement)
            self._after[key] = self._kind.state(capacity)
        return self._after[key]

    def before(self, name: str, placement: Placement) -> "GpuState":
        """The state without that slice, which is on the GPU."""
        key = (name, placement.start, placement.size)
        if key not in self._before:
            capacity = self._capacity.freed(name, self._kind.profiles.get(name), placement)
            self._before[key] = self._kind.state(capacity)
        return self._before[key]

    def count(self, name: str) -> int:
        places = self.places(name)  # all of one size, so the lowest first is optimal
        return 1 + self.after(name, places[0]).count(name) if places else 0

    @cached_property
    def holds(self) -> dict[str, int]:
        """How many more slices of each profile fit, if no other profile is requested."""
        return {name: count for name in self._kind.profiles if (count := self.count(name))}


_KINDS: dict[tuple[object, ...], _Kind] = {}


def empty_state(gpu: Gpu) -> GpuState:
    """Return the state of `gpu` when it is empty."""
    key = gpu.kind
    if key not in _KINDS:
        _KINDS[key] = _Kind(gpu)
    return _KINDS[key].empty
