"""Placements compared in simulated futures."""

import random
from collections.abc import Sequence
from math import inf

import pytest

from gateway.domain.futures import Busy, Candidate, best_candidate
from gateway.domain.gpu_state import empty_state
from gateway.domain.mig import FreeCapacity, Placement
from gateway.domain.placement import choose
from tests.unit.test_placement import CUT, NOW, churn, gpu, minutes

A100 = gpu()
SIZES = {profile.name: 5120.0 * profile.placements[0].size for profile in A100.profiles}
MINUTE = 60.0


def busy(*leases: tuple[float, str, int]) -> Busy:
    """An A100 with slices: the minutes until the end, the profile and the start."""
    state, held = empty_state(A100), []
    for ends, name, start in leases:
        found = A100.profile(name)
        assert found
        slice_ = (name, Placement(start, found.placements[0].size))
        state = state.after(*slice_)
        held.append((ends * MINUTE, slice_))
    return Busy(state, held, A100.memory_mib, SIZES)


def best(pool: Sequence[Busy], wanted: str, candidates: Sequence[Candidate], lasts: float = 600) -> Candidate:
    return best_candidate(pool, "1g.5gb", lasts * MINUTE, {wanted: 999}, candidates, "a seed")


def one_g(on: int, start: int, cost: float = 0.0) -> Candidate:
    return Candidate(on, Placement(start, 1), cost)


def test_a_slice_stays_out_of_the_half_that_the_requests_need() -> None:
    left, right = one_g(0, 0), one_g(0, 6)
    assert best([busy()], "4g.20gb", [left, right]) == right


def test_a_long_slice_joins_a_neighbour_that_stays() -> None:
    pool = [busy((5, "1g.5gb", 5)), busy((inf, "1g.5gb", 5))]
    short, long = one_g(0, 6), one_g(1, 6)
    assert best(pool, "7g.40gb", [short, long]) == long


def test_between_equal_losses_the_lower_cost_wins_and_then_the_first() -> None:
    pool = [busy(), busy()]
    assert best(pool, "1g.5gb", [one_g(0, 6, 0.2), one_g(1, 6, 0.1)]) == one_g(1, 6, 0.1)
    assert best(pool, "1g.5gb", [one_g(0, 6), one_g(1, 6)]) == one_g(0, 6)


def test_slices_whose_leases_are_over_are_given_back_at_once() -> None:
    over, standing = busy((-9, "7g.40gb", 0)), busy()
    assert best([over, standing], "7g.40gb", [one_g(1, 6)]) == one_g(1, 6)


@pytest.mark.parametrize("seed", range(5))
def test_the_same_input_gives_the_same_choice(seed: int) -> None:
    gpus = [gpu(index=0), gpu(index=1), gpu("RTX-PRO-6000", 2)]
    taken = churn(gpus, random.Random(seed))
    for name in ("1g.5gb", "2g.10gb", "1g.24gb"):
        choices = [choose(gpus, taken, name, minutes(90), NOW, {"7g.40gb": 9}) for _ in range(3)]
        assert choices.count(choices[0]) == 3


@pytest.mark.parametrize("kind", CUT)
def test_a_slice_that_ends_leaves_the_capacity_that_was_there_before(kind: str) -> None:
    rnd, on = random.Random(kind), gpu(kind)
    before = FreeCapacity.of(on)
    for _ in range(30):
        profile = rnd.choice(on.profiles)
        for place in before.places(profile)[:1]:
            after = before.without(profile.name, profile, place)
            assert after.freed(profile.name, profile, place) == before
            before = after
