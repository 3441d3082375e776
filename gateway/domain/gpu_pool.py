"""The GPUs as they were listed at one moment, with what each plan on them needs. Pure.

A cluster lists its GPUs every 15 seconds, and one of 8,000 GPUs plans ten sessions a second on them.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property

from gateway.domain.gpu_state import GpuState, empty_state
from gateway.domain.mig import Gpu, Instance, Profile


class GpuPool(tuple[Gpu, ...]):
    """`usable` are the GPUs on which sessions may begin, cordons aside, each with its state when it is empty.
    `offers` has every profile by its name, with the first GPU that has it."""

    @classmethod
    def of(cls, gpus: Iterable[Gpu]) -> "GpuPool":
        return gpus if isinstance(gpus, GpuPool) else cls(gpus)

    @cached_property
    def usable(self) -> Sequence[tuple[Gpu, GpuState]]:
        return [(gpu, empty_state(gpu)) for gpu in self if gpu.is_leasable and gpu.fault is None]

    def open(self, cordoned: Collection[str]) -> "GpuPool":
        """Return the GPUs on which sessions may begin. The last result is kept."""
        key = frozenset(cordoned)
        found = self._open.get(key)
        if found is None:
            found = GpuPool(gpu for gpu, _ in self.usable if gpu.uuid not in key)
            self._open.clear()
            self._open[key] = found
        return found

    @cached_property
    def _open(self) -> dict[frozenset[str], "GpuPool"]:
        return {}

    @cached_property
    def offers(self) -> Mapping[str, tuple[Gpu, Profile]]:
        return {profile.name: (gpu, profile) for gpu in reversed(self) for profile in gpu.profiles}

    @cached_property
    def instances(self) -> Sequence[Instance]:
        return [instance for gpu in self for instance in gpu.instances]

    @cached_property
    def by_uuid(self) -> Mapping[str, Gpu]:
        return {gpu.uuid: gpu for gpu in self}

    @cached_property
    def whole(self) -> Collection[str]:
        """The UUIDs of the GPUs that are leased whole."""
        return {gpu.uuid for gpu in self if gpu.is_whole}
