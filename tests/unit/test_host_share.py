"""A larger slice brings more of the host's memory and CPUs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.host_share import FLOOR_CPUS, FLOOR_MEMORY, GIB, Machine

DGX = Machine(2048 * GIB, 256)  # with 8 GPUs of 8 memory slices
SMALL = Machine(24 * GIB, 2)

shares = st.floats(0, 1)
machines = st.builds(Machine, st.integers(GIB // 2, 4096 * GIB), st.integers(1, 512))


@pytest.mark.parametrize(
    ("slices", "memory_gib", "cpus"),
    [(1, 28.8, 4.0), (2, 57.6, 8.0), (4, 115.2, 16.0), (8, 230.4, 32.0)],
)
def test_a_slice_brings_its_part_of_the_host(slices: int, memory_gib: float, cpus: float) -> None:
    share = slices / 64
    assert DGX.memory_of(share) / GIB == pytest.approx(memory_gib, abs=0.01)
    assert DGX.cpus_of(share) == cpus


def test_the_smallest_slice_of_a_small_host_has_the_floor() -> None:
    assert (SMALL.memory_of(1 / 16), SMALL.cpus_of(1 / 16)) == (FLOOR_MEMORY, FLOOR_CPUS)
    assert (SMALL.memory_of(0), SMALL.cpus_of(0)) == (FLOOR_MEMORY, FLOOR_CPUS)


@given(machines, shares, shares)
def test_no_slice_exceeds_the_host_and_a_larger_one_never_has_less(
    machine: Machine, one: float, other: float
) -> None:
    less, more = sorted((one, other))
    assert 0 < machine.memory_of(less) <= machine.memory_of(more) <= machine.memory_bytes
    assert 0 < machine.cpus_of(less) <= machine.cpus_of(more) <= machine.cpus


@given(machines.filter(lambda machine: machine.memory_bytes >= 64 * FLOOR_MEMORY))
def test_all_slices_of_a_large_host_together_leave_a_part_to_the_host(machine: Machine) -> None:
    assert 8 * machine.memory_of(1 / 8) <= 0.91 * machine.memory_bytes
