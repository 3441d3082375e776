"""How much of the host's memory and CPUs goes with a slice of its GPUs. Pure."""

from dataclasses import dataclass

GIB = 2**30
FLOOR_MEMORY, FLOOR_CPUS = 4 * GIB, 1.0  # of the smallest slice, even if all slices together exceed the host
_RESERVED = 0.1  # of the memory: for the host itself, its Docker and the gateway
_STEP = 2**20  # bytes


@dataclass(frozen=True, slots=True)
class Machine:
    memory_bytes: int
    cpus: int

    def memory_of(self, share: float) -> int:
        """Return the memory limit in bytes, in whole MiB, for a share of the host's memory slices."""
        wanted = max(FLOOR_MEMORY, share * (1 - _RESERVED) * self.memory_bytes)
        return int(min(wanted, self.memory_bytes)) // _STEP * _STEP

    def cpus_of(self, share: float) -> float:
        """Return the CPU limit in hundredths of a CPU."""
        return round(min(max(FLOOR_CPUS, share * self.cpus), self.cpus), 2)
