"""Where slices are put, when the next one fits, and how many do."""

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from gateway.domain.mig import Gpu, MigMode, Placement, Profile
from gateway.domain.placement import Occupied, available, capacity, choose, next_fit
from gateway.simulation.catalogue import KINDS
from tests.fakes.gpus import empty_gpu, free_placements

NOW = datetime(2025, 1, 17, 8, tzinfo=UTC)
CUT = [name for name, kind in KINDS.items() if kind.profiles]


def gpu(kind: str = "A100-40GB", index: int = 0) -> Gpu:
    return empty_gpu(kind, index)


def minutes(count: float) -> datetime:
    return NOW + timedelta(minutes=count)


def lease(on: Gpu, profile: str, start: int, ends: float | None = 60, session: str | None = None) -> Occupied:
    found = on.profile(profile)
    size = found.placements[0].size if found else 1
    return Occupied(
        on.uuid, profile, Placement(start, size), None if ends is None else minutes(ends), session
    )


def spot(
    gpus: Sequence[Gpu], taken: Sequence[Occupied], profile: str, ends: float = 60
) -> tuple[int, int] | None:
    found = choose(gpus, taken, profile, minutes(ends), NOW)
    return (found.gpu.index, found.placement.start) if found else None


def churn(gpus: Sequence[Gpu], rnd: random.Random) -> list[Occupied]:
    """Some leases, put anywhere they fit."""
    taken: list[Occupied] = []
    for _ in range(rnd.randrange(8 * len(gpus))):
        on = rnd.choice(gpus)
        profile = rnd.choice(on.profiles)
        places = free_placements(on, profile, taken)
        if places:
            ends = rnd.choice([None, minutes(rnd.uniform(-5, 200))])
            taken.append(Occupied(on.uuid, profile.name, rnd.choice(places), ends))
    return taken


def test_a_1g_on_an_empty_gpu_takes_the_slice_that_spares_the_most() -> None:
    assert spot([gpu()], [], "1g.5gb") == (0, 6)


def test_a_3g_leaves_the_left_half_to_a_4g() -> None:
    assert spot([gpu()], [], "3g.20gb") == (0, 4)


def test_two_3g_share_a_gpu() -> None:
    first = gpu()
    assert spot([first], [lease(first, "3g.20gb", 4)], "3g.20gb") == (0, 0)


def test_a_3g_goes_beside_a_4g_and_leaves_the_empty_gpu_whole() -> None:
    empty, half = gpu(index=0), gpu(index=1)
    assert spot([empty, half], [lease(half, "4g.20gb", 0)], "3g.20gb") == (1, 4)


def test_a_4g_has_no_room_beside_a_slice_in_the_left_half() -> None:
    only = gpu()
    assert spot([only], [lease(only, "1g.5gb", 3)], "4g.20gb") is None


def test_a_profile_with_the_media_engines_stands_once_a_gpu() -> None:
    gpus = [gpu(index=0), gpu(index=1)]
    taken = [lease(gpus[0], "1g.5gb+me", 6)]
    assert spot(gpus, taken, "1g.5gb+me") == (1, 6)
    assert spot(gpus, [*taken, lease(gpus[1], "1g.5gb+me", 6)], "1g.5gb+me") is None


def test_free_memory_is_of_no_use_without_compute_slices() -> None:
    small = replace(gpu(), compute_slices=3)
    assert spot([small], [lease(small, "1g.5gb", 6)], "3g.20gb") is None


@pytest.mark.parametrize("mode", [mode for mode in MigMode if mode is not MigMode.ENABLED])
def test_a_gpu_that_is_not_in_mig_mode_is_never_chosen(mode: MigMode) -> None:
    off = replace(gpu(), mig_mode=mode)
    assert spot([off], [], "1g.5gb") is None
    assert next_fit([off], [], "1g.5gb", NOW) is None
    assert capacity([off], "1g.5gb") == available([off], [], "1g.5gb") == 0


def test_a_gpu_with_a_fault_is_never_chosen() -> None:
    gpus = [replace(gpu(index=0), fault="lost"), gpu(index=1)]
    assert spot(gpus, [], "7g.40gb") == (1, 0)
    assert spot(gpus[:1], [], "7g.40gb") is None


def test_a_profile_is_sought_on_the_gpus_that_offer_it() -> None:
    gpus = [gpu("A30", 0), gpu("A100-40GB", 1)]
    assert spot(gpus, [], "2g.12gb") == (0, 2)
    assert spot(gpus, [], "3g.20gb") == (1, 4)
    assert spot(gpus, [], "3g.21gb") is None


@pytest.mark.parametrize(("ends", "beside"), [(10, 0), (100, 1)])
def test_slices_that_end_together_lie_together(ends: float, beside: int) -> None:
    gpus = [gpu(index=0), gpu(index=1)]
    taken = [lease(gpus[0], "2g.10gb", 4, ends=10), lease(gpus[1], "2g.10gb", 4, ends=100)]
    assert spot(gpus, taken, "1g.5gb", ends) == (beside, 6)


def test_a_slice_of_unknown_end_counts_as_one_that_stays() -> None:
    gpus = [gpu(index=0), gpu(index=1)]
    taken = [lease(gpus[0], "3g.20gb", 4, ends=30), lease(gpus[1], "3g.20gb", 4, ends=None)]
    assert spot(gpus, taken, "3g.20gb", ends=300) == (1, 0)


@pytest.mark.parametrize(("wanted", "place"), [("2g.10gb", (0, 6)), ("3g.20gb", (1, 3))])
def test_room_is_kept_for_what_is_asked_for_most(wanted: str, place: tuple[int, int]) -> None:
    half, pair = gpu(index=0), gpu(index=1)
    taken = [lease(half, "4g.20gb", 0), lease(pair, "3g.20gb", 4), lease(pair, "1g.10gb", 0)]
    found = choose([half, pair], taken, "1g.5gb", minutes(60), NOW, {wanted: 99})
    assert found
    assert (found.gpu.index, found.placement.start) == place


def test_a_refused_place_is_left_and_its_gpu_only_if_no_other_has_room() -> None:
    gpus = [gpu(index=0), gpu(index=1)]
    refused = [("GPU-0", Placement(4, 4))]

    def chosen(on: Sequence[Gpu], refused: Sequence[tuple[str, Placement]]) -> tuple[int, Placement] | None:
        found = choose(on, [], "3g.20gb", minutes(60), NOW, refused=refused)
        return (found.gpu.index, found.placement) if found else None

    assert chosen(gpus, refused) == (1, Placement(4, 4))
    assert chosen(gpus[:1], refused) == (0, Placement(0, 4))
    assert chosen(gpus[:1], [*refused, ("GPU-0", Placement(0, 4))]) is None


def test_beside_all_media_engines_a_profile_with_some_goes_to_another_gpu() -> None:
    gpus = [gpu("RTX-PRO-6000", 0), gpu("RTX-PRO-6000", 1)]
    taken = [lease(gpus[0], "1g.24gb+me.all", 0)]
    assert spot(gpus, taken, "1g.24gb") == (1, 9)
    assert spot(gpus, taken, "1g.24gb-me") == (0, 3)
    assert available(gpus, taken, "1g.24gb") == 4
    assert available(gpus, taken, "1g.24gb-me") == 7
    assert available(gpus, taken, "2g.48gb+gfx") == 2
    assert available(gpus, taken, "1g.24gb+me.all") == 1


def test_an_instance_of_a_profile_that_nobody_knows_is_planned_around() -> None:
    only = gpu()
    strange = Occupied(only.uuid, "what.is.this", Placement(4, 4), None)
    assert spot([only], [strange], "3g.20gb") == (0, 0)
    assert spot([only], [strange], "7g.40gb") is None


@pytest.mark.parametrize("kind", CUT)
@pytest.mark.parametrize("seed", range(10))
def test_a_place_is_found_exactly_when_there_is_one_and_never_overlaps(kind: str, seed: int) -> None:
    rnd = random.Random(f"{kind} {seed}")
    gpus = [gpu(kind, 0), gpu(kind, 1), gpu("A30", 2)]
    taken = churn(gpus, rnd)
    for name in {profile.name for each in gpus for profile in each.profiles}:
        free = {
            (each.uuid, place)
            for each in gpus
            if (profile := each.profile(name))
            for place in free_placements(each, profile, taken)
        }
        found = choose(gpus, taken, name, minutes(rnd.uniform(1, 300)), NOW)
        assert (found is not None) == bool(free)
        if found:
            assert (found.gpu.uuid, found.placement) in free
            others = [other for other in taken if other.gpu_uuid == found.gpu.uuid]
            assert not any(found.placement.overlaps(other.placement) for other in others)


def test_what_fits_now_waits_for_nobody() -> None:
    fit = next_fit([gpu()], [], "7g.40gb", NOW)
    assert fit is not None
    assert (fit.gpu_uuid, fit.placement, fit.at, fit.waits_for) == ("GPU-0", Placement(0, 8), NOW, ())


def test_the_next_fit_names_the_sessions_that_it_waits_for() -> None:
    only = gpu()
    taken = [
        lease(only, "2g.10gb", 0, ends=10, session="spared"),
        lease(only, "1g.5gb", 4, ends=20, session="first"),
        lease(only, "1g.5gb", 6, ends=30, session="second"),
        lease(only, "1g.5gb", 3, ends=40, session="later"),
    ]
    fit = next_fit([only], taken, "3g.20gb", NOW)
    assert fit is not None
    assert (fit.placement, fit.at) == (Placement(4, 4), minutes(30))
    assert [each.session_id for each in fit.waits_for] == ["first", "second"]


def test_the_next_fit_is_on_the_gpu_that_is_free_first() -> None:
    gpus = [gpu(index=0), gpu(index=1)]
    taken = [lease(gpus[0], "7g.40gb", 0, ends=50), lease(gpus[1], "7g.40gb", 0, ends=40)]
    fit = next_fit(gpus, taken, "1g.5gb", NOW)
    assert fit is not None
    assert (fit.gpu_uuid, fit.at, fit.waits_for) == ("GPU-1", minutes(40), (taken[1],))


def test_a_count_that_is_used_up_is_waited_for_though_memory_is_free() -> None:
    only = gpu()
    taken = [lease(only, "1g.5gb+me", 6, ends=25)]
    fit = next_fit([only], taken, "1g.5gb+me", NOW)
    assert fit is not None
    assert (fit.at, fit.waits_for) == (minutes(25), tuple(taken))


def test_a_lease_of_unknown_end_never_makes_room() -> None:
    only = gpu()
    assert next_fit([only], [lease(only, "1g.5gb", 0, ends=None)], "7g.40gb", NOW) is None


def test_a_lease_that_is_over_but_stands_is_waited_for_from_now_on() -> None:
    only = gpu()
    over = lease(only, "7g.40gb", 0, ends=-1)
    fit = next_fit([only], [over], "1g.5gb", NOW)
    assert fit is not None
    assert (fit.at, fit.waits_for) == (NOW, (over,))


@pytest.mark.parametrize("seed", range(20))
def test_the_next_fit_is_the_first_end_after_which_there_is_room(seed: int) -> None:
    rnd = random.Random(seed)
    gpus = [gpu(index=0), gpu("RTX-PRO-6000", 1)]
    taken = churn(gpus, rnd)
    for name in ("1g.5gb+me", "3g.20gb", "4g.96gb"):
        fit = next_fit(gpus, taken, name, NOW)
        ends = sorted({NOW, *(max(NOW, each.expires_at) for each in taken if each.expires_at)})
        moments = [end for end in ends if fits_after(gpus, taken, name, end)]
        assert (fit.at if fit else None) == (moments[0] if moments else None)


def fits_after(gpus: Sequence[Gpu], taken: Sequence[Occupied], name: str, end: datetime) -> bool:
    left = [each for each in taken if each.expires_at is None or each.expires_at > end]
    return any(free_placements(each, found, left) for each in gpus if (found := each.profile(name)))


@pytest.mark.parametrize("kind", CUT)
def test_an_empty_host_holds_as_many_as_the_driver_says_a_gpu_does(kind: str) -> None:
    gpus = [gpu(kind, 0), gpu(kind, 1)]
    for profile in gpus[0].profiles:
        assert capacity(gpus, profile.name) == 2 * profile.max_instances


def test_what_is_available_is_counted_over_all_gpus() -> None:
    gpus = [gpu(index=0), gpu(index=1)]
    taken = [lease(gpus[0], "1g.5gb", 2)]
    assert available(gpus, taken, "2g.10gb") == 2 + 3
    assert available(gpus, taken, "7g.40gb") == 1
    assert available(gpus, taken, "9g.99gb") == 0


@pytest.mark.parametrize("seed", range(20))
def test_as_many_fit_as_an_exhaustive_search_can_place(seed: int) -> None:
    only = gpu()
    taken = churn([only], random.Random(seed))
    for profile in only.profiles:
        assert available([only], taken, profile.name) == most(only, profile, taken)


def most(on: Gpu, profile: Profile, taken: list[Occupied]) -> int:
    places = free_placements(on, profile, taken)
    puts = (Occupied(on.uuid, profile.name, place) for place in places)
    return max((1 + most(on, profile, [*taken, put]) for put in puts), default=0)


def test_others_are_one_gpu_of_each_other_node_with_room() -> None:
    def on(node: str, number: int) -> Gpu:
        return replace(gpu(), uuid=f"GPU-{node}-{number}", node=node)

    gpus = [on(node, number) for node in ("n1", "n2", "n3", "n4") for number in (0, 1)]
    taken = [
        Occupied("GPU-n4-1", "3g.20gb", Placement(4, 4), minutes(90)),
        *(Occupied(f"GPU-n2-{number}", "7g.40gb", Placement(0, 8), minutes(90)) for number in (0, 1)),
    ]
    found = choose(gpus, taken, "3g.20gb", minutes(90), NOW, others=2)
    assert found
    assert {found.gpu.node, *(other.node for other in found.others)} == {"n1", "n3", "n4"}
    alone = choose(gpus[:2], [], "3g.20gb", minutes(90), NOW, others=2)
    assert alone
    assert alone.others == ()
