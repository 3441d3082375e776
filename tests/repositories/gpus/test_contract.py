"""One contract for the fake GPUs and for the real repository over the simulated driver, kind by kind; then,
reading only, a real driver where there is one."""

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import pynvml
import pytest

from gateway.domain.mig import Gpu, Instance, MigMode, Placement
from gateway.domain.placement import Occupied, available
from gateway.errors import DriverUnavailable, GpuLost, PlacementTaken, UnknownProfile
from gateway.repositories.nvml.gpus import Gpus
from gateway.simulation.catalogue import KINDS
from tests.fakes.driver import simulated_driver, unload
from tests.fakes.gpus import FakeGpus, free_placements

MIG_KINDS = [name for name, kind in KINDS.items() if kind.profiles]


class AnyGpus(Protocol):
    def check(self) -> None: ...
    def processes(self, mig_uuid: str) -> int: ...
    def tidy(self) -> None: ...
    def list(self) -> list[Gpu]: ...
    def create(self, gpu_uuid: str, profile_name: str, placement: Placement) -> Instance: ...
    def destroy(
        self, gpu_uuid: str, profile_name: str, placement: Placement, mig_uuid: str | None = None
    ) -> None: ...


def taken(gpu: Gpu) -> list[Occupied]:
    return [Occupied(gpu.uuid, instance.profile, instance.placement) for instance in gpu.instances]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["fake", "simulated driver"])
def gpus(request: pytest.FixtureRequest, kind: str, tmp_path: Path) -> Iterator[AnyGpus]:
    """One GPU of the kind."""
    if request.param == "fake":
        yield FakeGpus([kind])
    else:
        with simulated_driver(f"1x{kind}", tmp_path / "simulated-gpus.json"):
            yield Gpus(tmp_path / "locks", simulated=True)


@dataclass(frozen=True)
class Losable:
    """Two A100 of which the first one can be lost, and returns as it was."""

    gpus: AnyGpus
    lose: Callable[[], None]
    bring_back: Callable[[], None]


@pytest.fixture(params=["fake", "simulated driver"])
def losable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Losable]:
    if request.param == "fake":
        fake = FakeGpus(["A100-40GB", "A100-40GB"])
        uuid = fake.list()[0].uuid
        yield Losable(fake, lambda: fake.set_fault(uuid, "GPU is lost"), lambda: fake.set_fault(uuid, None))
    else:
        with simulated_driver("2xA100-40GB", tmp_path / "simulated-gpus.json") as faults:
            gpus = Gpus(tmp_path / "locks", simulated=True)
            yield Losable(gpus, lambda: faults.lose(0, pynvml.NVML_ERROR_GPU_IS_LOST), faults.clear)


def test_an_instance_on_a_lost_gpu_is_destroyed_when_the_gpu_returns_with_it(losable: Losable) -> None:
    gpus = losable.gpus
    uuid, others = gpus.list()[0].uuid, gpus.list()[1].uuid
    made = [gpus.create(uuid, "1g.5gb", Placement(start, 1)) for start in (0, 1)]
    gpus.create(others, "1g.5gb", Placement(0, 1))
    losable.lose()
    gpus.destroy(uuid, "1g.5gb", Placement(0, 1), made[0].mig_uuid)
    gpus.tidy()
    assert gpus.list()[0].fault == "GPU is lost"
    losable.bring_back()
    gpus.tidy()
    assert [gpu.instances for gpu in gpus.list()] == [(made[1],), gpus.list()[1].instances]
    assert len(gpus.list()[1].instances) == 1


def test_an_idle_host_answers_and_shows_its_gpu(gpus: AnyGpus, kind: str) -> None:
    gpus.check()
    (gpu,) = gpus.list()
    assert (gpu.index, gpu.name, gpu.simulated, gpu.fault) == (0, KINDS[kind].product, True, None)
    assert (gpu.mig_mode is MigMode.ENABLED) == bool(gpu.profiles) == (kind in MIG_KINDS)
    assert gpu.instances == ()


def test_an_instance_can_be_created_and_destroyed_in_every_place(gpus: AnyGpus) -> None:
    (gpu,) = gpus.list()
    for profile in gpu.profiles:
        for placement in profile.placements:
            instance = gpus.create(gpu.uuid, profile.name, placement)
            assert (instance.gpu_uuid, instance.profile) == (gpu.uuid, profile.name)
            assert instance.placement == placement
            assert re.fullmatch(r"MIG-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", str(instance.mig_uuid))
            assert gpus.list()[0].instances == (instance,)
            gpus.destroy(gpu.uuid, profile.name, placement)
            assert gpus.list() == [gpu]


def test_the_gpu_takes_exactly_what_the_rules_of_mig_say_fits(gpus: AnyGpus) -> None:
    """A walk at random, and at each step every profile in every place that it could have."""
    chance = random.Random(4)
    (gpu,) = gpus.list()
    wishes = [(profile, place) for profile in gpu.profiles for place in profile.placements]
    for _ in range(4 if wishes else 0):
        chance.shuffle(wishes)
        for profile, place in wishes:
            (now,) = gpus.list()
            if place in free_placements(now, profile, taken(now)):
                gpus.create(gpu.uuid, profile.name, place)
            else:
                with pytest.raises(PlacementTaken):
                    gpus.create(gpu.uuid, profile.name, place)
        for instance in gpus.list()[0].instances:
            if chance.random() < 0.6:
                gpus.destroy(gpu.uuid, instance.profile, instance.placement)


def test_instances_are_listed_by_where_they_start(gpus: AnyGpus) -> None:
    (gpu,) = gpus.list()
    if not gpu.profiles:
        return
    for place in sorted(gpu.profiles[0].placements, reverse=True):
        gpus.create(gpu.uuid, gpu.profiles[0].name, place)
    places = [instance.placement for instance in gpus.list()[0].instances]
    assert places == sorted(gpu.profiles[0].placements)


def test_a_new_slice_has_no_process_and_one_that_is_gone_has_no_answer(gpus: AnyGpus) -> None:
    (gpu,) = gpus.list()
    for profile in gpu.profiles[:1]:
        made = gpus.create(gpu.uuid, profile.name, profile.placements[0])
        assert made.mig_uuid
        assert gpus.processes(made.mig_uuid) == 0
        gpus.destroy(gpu.uuid, profile.name, profile.placements[0], made.mig_uuid)
        with pytest.raises(DriverUnavailable):
            gpus.processes(made.mig_uuid)


def test_what_is_refused_changes_nothing(gpus: AnyGpus) -> None:
    (gpu,) = gpus.list()
    for profile in gpu.profiles[:1]:
        first = gpus.create(gpu.uuid, profile.name, profile.placements[0])
        with pytest.raises(PlacementTaken):
            gpus.create(gpu.uuid, profile.name, profile.placements[0])
        assert gpus.list()[0].instances == (first,)


def test_destroying_what_is_gone_is_a_success(gpus: AnyGpus) -> None:
    (gpu,) = gpus.list()
    for profile in gpu.profiles:
        gpus.destroy(gpu.uuid, profile.name, profile.placements[0])


def test_destroying_touches_only_that_profile_in_that_place(gpus: AnyGpus) -> None:
    (gpu,) = gpus.list()
    for standing in gpu.profiles:
        instance = gpus.create(gpu.uuid, standing.name, standing.placements[0])
        for profile in gpu.profiles:
            for place in profile.placements:
                if (profile.name, place) != (standing.name, standing.placements[0]):
                    gpus.destroy(gpu.uuid, profile.name, place)
        assert gpus.list()[0].instances == (instance,)
        gpus.destroy(gpu.uuid, standing.name, standing.placements[0])


def test_an_instance_that_took_the_place_of_a_lost_one_is_not_destroyed(gpus: AnyGpus) -> None:
    (gpu,) = gpus.list()
    for profile in gpu.profiles[:1]:
        place = profile.placements[0]
        lost = gpus.create(gpu.uuid, profile.name, place)
        gpus.destroy(gpu.uuid, profile.name, place, lost.mig_uuid)
        other = gpus.create(gpu.uuid, profile.name, place)
        gpus.destroy(gpu.uuid, profile.name, place, lost.mig_uuid)
        assert gpus.list()[0].instances == (other,)


def another_program(gpus: AnyGpus, directory: Path) -> AnyGpus:
    """On the same GPUs; it knows nothing of the gateway."""
    return (
        gpus.another_program() if isinstance(gpus, FakeGpus) else Gpus(directory / "its-own", simulated=True)
    )


def test_an_instance_of_another_program_is_not_destroyed(gpus: AnyGpus, tmp_path: Path) -> None:
    """Neither by its place alone, nor in the place of one that was lost."""
    (gpu,) = gpus.list()
    for profile in gpu.profiles[:1]:
        place = profile.placements[0]
        theirs = another_program(gpus, tmp_path).create(gpu.uuid, profile.name, place)
        for uuid in (None, "MIG-00000000-0000-0000-0000-000000000000"):
            gpus.destroy(gpu.uuid, profile.name, place, uuid)
        assert gpus.list()[0].instances == (theirs,)


def test_an_instance_is_destroyed_by_its_uuid_whoever_made_it(gpus: AnyGpus, tmp_path: Path) -> None:
    """As after the state directory was lost: the UUID is in the database."""
    (gpu,) = gpus.list()
    for profile in gpu.profiles[:1]:
        theirs = another_program(gpus, tmp_path).create(gpu.uuid, profile.name, profile.placements[0])
        gpus.destroy(gpu.uuid, profile.name, profile.placements[0], theirs.mig_uuid)
        assert gpus.list() == [gpu]


@pytest.mark.parametrize("seed", range(3))
def test_as_many_are_available_as_the_driver_has_room_for(kind: str, seed: int, tmp_path: Path) -> None:
    """Over random occupancies: the gateway counts by the profiles, the simulated driver by its engines."""
    chance = random.Random(f"{kind} {seed}")
    with simulated_driver(f"1x{kind}", tmp_path / "simulated-gpus.json"):
        gpus = Gpus(tmp_path / "locks", simulated=True)
        for _ in range(12):
            (gpu,) = gpus.list()
            handle = pynvml.nvmlDeviceGetHandleByIndex(0)
            for profile in gpu.profiles:
                remaining = pynvml.nvmlDeviceGetGpuInstanceRemainingCapacity(handle, profile.driver_id)
                assert available([gpu], taken(gpu), profile.name) == remaining, profile.name
            fitting = [
                (profile.name, place)
                for profile in gpu.profiles
                for place in free_placements(gpu, profile, taken(gpu))
            ]
            if fitting and chance.random() < 0.7:
                gpus.create(gpu.uuid, *chance.choice(fitting))
            elif gpu.instances:
                victim = chance.choice(gpu.instances)
                gpus.destroy(gpu.uuid, victim.profile, victim.placement)


def test_a_profile_of_another_kind_is_unknown_and_the_offer_is_listed(gpus: AnyGpus, kind: str) -> None:
    (gpu,) = gpus.list()
    if kind in MIG_KINDS:
        with pytest.raises(UnknownProfile) as refusal:
            gpus.create(gpu.uuid, "9g.999gb", Placement(0, 1))
        assert refusal.value.available_profiles == [profile.name for profile in gpu.profiles]


def test_a_gpu_that_is_not_there_is_lost(gpus: AnyGpus) -> None:
    with pytest.raises(GpuLost):
        gpus.create("GPU-none", "1g.5gb", Placement(0, 1))
    gpus.destroy("GPU-none", "1g.5gb", Placement(0, 1))  # nothing of this gateway's can be there


def test_the_fake_describes_a_gpu_as_the_driver_does(kind: str, tmp_path: Path) -> None:
    (fake,) = FakeGpus([kind]).list()
    with simulated_driver(f"1x{kind}", tmp_path / "simulated-gpus.json"):
        (gpu,) = Gpus(tmp_path / "locks", simulated=True).list()
    assert replace(gpu, uuid="") == replace(fake, uuid="")


@pytest.mark.may_be_skipped
def test_a_real_driver_describes_gpus_by_the_same_rules(tmp_path: Path) -> None:
    unload()
    gpus = Gpus(tmp_path)
    try:
        gpus.check()
    except DriverUnavailable as error:
        pytest.skip(f"no real driver here: {error}")
    for gpu in gpus.list():
        for profile in gpu.profiles:
            assert profile.placements
            assert all(place.start + place.size <= gpu.memory_slices for place in profile.placements)
            assert 1 <= profile.compute_slices <= gpu.compute_slices
            assert profile.memory_mib <= gpu.memory_mib
        for instance in gpu.instances:
            assert instance.placement.start + instance.placement.size <= gpu.memory_slices
