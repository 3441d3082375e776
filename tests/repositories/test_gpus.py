"""One contract for the fake GPUs and for the real repository over the simulated driver, kind by kind;
then what only a driver can do wrong; then, reading only, a real driver where there is one."""

import fcntl
import os
import random
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import pynvml
import pytest

from gateway import failpoints
from gateway.domain import clock
from gateway.domain.mig import Gpu, Instance, MigMode, Placement
from gateway.domain.placement import Occupied, available
from gateway.errors import DriverUnavailable, GpuLost, PlacementTaken, SliceBusy, UnknownProfile
from gateway.repositories.nvml.gpus import Gpus
from gateway.simulation.catalogue import KINDS
from gateway.simulation.machine import Fault
from tests.fakes.driver import simulated_driver, unload
from tests.fakes.faults import Faults
from tests.fakes.gpus import FakeGpus, free_placements
from tests.paths import REPOSITORY

CREATE = "nvmlDeviceCreateGpuInstanceWithPlacement"
CREATE_COMPUTE = "nvmlGpuInstanceCreateComputeInstance"
MIG_KINDS = [name for name, kind in KINDS.items() if kind.profiles]


class AnyGpus(Protocol):
    def check(self) -> None: ...
    def processes(self, mig_uuid: str) -> int: ...
    def list(self) -> list[Gpu]: ...
    def create(self, gpu_uuid: str, profile_name: str, placement: Placement) -> Instance: ...
    def destroy(
        self, gpu_uuid: str, profile_name: str, placement: Placement, mig_uuid: str | None = None
    ) -> None: ...


def taken(gpu: Gpu) -> list[Occupied]:
    return [Occupied(gpu.uuid, instance.profile, instance.placement) for instance in gpu.instances]


# The contract


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
    with pytest.raises(GpuLost):
        gpus.destroy("GPU-none", "1g.5gb", Placement(0, 1))


def test_the_fake_describes_a_gpu_as_the_driver_does(kind: str, tmp_path: Path) -> None:
    (fake,) = FakeGpus([kind]).list()
    with simulated_driver(f"1x{kind}", tmp_path / "simulated-gpus.json"):
        (gpu,) = Gpus(tmp_path / "locks", simulated=True).list()
    assert replace(gpu, uuid="") == replace(fake, uuid="")


# What only a driver can do wrong


@dataclass
class Bench:
    """Two A100s and a GPU without MIG, their faults, and the pauses that the repository made."""

    faults: Faults
    lock_dir: Path
    pauses: list[float] = field(default_factory=list)
    on_pause: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.gpus = Gpus(self.lock_dir, simulated=True, sleep=self._pause)

    def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.on_pause()

    @property
    def uuid(self) -> str:
        return self.gpus.list()[0].uuid

    def create(self) -> Instance:
        return self.gpus.create(self.uuid, "3g.20gb", Placement(4, 4))

    def destroy(self) -> None:
        self.gpus.destroy(self.uuid, "3g.20gb", Placement(4, 4))

    def standing(self) -> int:
        self.faults.clear()
        return len(self.gpus.list()[0].instances)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with simulated_driver("2xA100-40GB,1xL4", tmp_path / "simulated-gpus.json") as faults:
        yield Bench(faults, tmp_path / "locks")


@pytest.mark.parametrize(
    ("code", "kind_of_error", "advice"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, DriverUnavailable, "--simulate-gpus"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, DriverUnavailable, "modprobe nvidia"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, DriverUnavailable, "reboot the host"),
        (pynvml.NVML_ERROR_UNKNOWN, DriverUnavailable, "Unknown Error"),
    ],
)
def test_a_driver_that_cannot_be_started_says_what_to_do(
    bench: Bench, code: int, kind_of_error: type[Exception], advice: str
) -> None:
    bench.faults.inject(Fault("nvmlInitWithFlags", code))
    with pytest.raises(kind_of_error, match=advice):
        bench.gpus.check()
    bench.faults.clear()
    bench.gpus.check()


@pytest.mark.parametrize(
    ("code", "kind_of_error", "advice"),
    [
        (pynvml.NVML_ERROR_NO_PERMISSION, DriverUnavailable, "mig/config"),
        (pynvml.NVML_ERROR_NOT_SUPPORTED, DriverUnavailable, "MIG mode"),
        (pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES, PlacementTaken, "something stands in that place"),
        (pynvml.NVML_ERROR_IN_USE, SliceBusy, "DCGM"),
        (pynvml.NVML_ERROR_GPU_IS_LOST, GpuLost, "dmesg"),
        (pynvml.NVML_ERROR_RESET_REQUIRED, GpuLost, "nvidia-smi --gpu-reset"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, DriverUnavailable, "upgrade"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, DriverUnavailable, "modprobe nvidia"),
        (pynvml.NVML_ERROR_NOT_FOUND, DriverUnavailable, "Not Found"),
    ],
)
@pytest.mark.parametrize("call", [CREATE, CREATE_COMPUTE])
def test_a_create_that_fails_says_why_and_leaves_nothing(
    bench: Bench, call: str, code: int, kind_of_error: type[Exception], advice: str
) -> None:
    bench.faults.inject(Fault(call, code))
    sentence = f"^Creating a 3g.20gb at memory slice 4 of GPU .* failed: .*{advice}"
    with pytest.raises(kind_of_error, match=sentence):
        bench.create()
    assert bench.standing() == 0


@pytest.mark.parametrize("call", [CREATE, CREATE_COMPUTE])
def test_a_create_that_succeeds_after_its_time_out_is_taken_back(bench: Bench, call: str) -> None:
    bench.faults.inject(Fault(call, pynvml.NVML_ERROR_TIMEOUT, effect=True))
    with pytest.raises(DriverUnavailable, match="Timeout"):
        bench.create()
    assert bench.standing() == 0


def test_an_instance_that_another_program_made_meanwhile_is_not_taken_back(bench: Bench) -> None:
    bench.faults.inject(Fault(CREATE, pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES, effect=True))
    with pytest.raises(PlacementTaken):
        bench.create()
    assert bench.standing() == 1


def test_what_stands_already_is_not_taken_back(bench: Bench) -> None:
    """Another program's instance, in the very place, while the driver answers nonsense."""
    other = bench.create()
    bench.faults.inject(Fault(CREATE, pynvml.NVML_ERROR_TIMEOUT))
    with pytest.raises(PlacementTaken):
        bench.create()
    bench.faults.clear()
    assert bench.gpus.list()[0].instances == (other,)


def test_a_create_that_cannot_be_taken_back_is_no_taken_placement(bench: Bench) -> None:
    """The caller must know that something of its own may stand there."""
    bench.faults.inject(Fault(CREATE_COMPUTE, pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES))
    bench.faults.inject(Fault("nvmlGpuInstanceDestroy", pynvml.NVML_ERROR_IN_USE))
    with pytest.raises(SliceBusy):
        bench.create()
    assert bench.standing() == 1
    bench.destroy()
    assert bench.standing() == 0


def test_an_instance_that_is_let_go_in_time_is_destroyed(bench: Bench) -> None:
    bench.create()
    bench.faults.hold(0, 4, "a process that is ending")
    bench.on_pause = lambda: bench.faults.hold(0, 4, None) if len(bench.pauses) == 2 else None
    bench.destroy()
    assert bench.pauses == [0.1, 0.2]
    assert bench.standing() == 0


def test_an_instance_that_is_held_for_long_is_busy_and_stays(bench: Bench) -> None:
    bench.create()
    bench.faults.hold(0, 4, "nv-hostengine")
    with pytest.raises(SliceBusy, match="look for a process on it with nvidia-smi .* DCGM"):
        bench.destroy()
    assert sum(bench.pauses) < 2
    assert bench.standing() == 1


def test_other_sessions_can_use_the_gpu_while_one_waits_for_a_holder(bench: Bench) -> None:
    bench.create()
    bench.faults.hold(0, 4, "nv-hostengine")
    created: list[Instance] = []
    bench.on_pause = lambda: created.append(
        bench.gpus.create(bench.uuid, "1g.5gb", Placement(len(created), 1))
    )
    with pytest.raises(SliceBusy):
        bench.destroy()
    assert len(created) == len(bench.pauses)


def test_remnants_of_a_destroy_that_was_reported_as_done_are_noticed(bench: Bench) -> None:
    bench.create()
    bench.faults.inject(Fault("nvmlGpuInstanceDestroy", pynvml.NVML_SUCCESS))
    with pytest.raises(SliceBusy, match="still lists it"):
        bench.destroy()
    bench.faults.clear()
    bench.destroy()
    assert bench.standing() == 0


def test_a_list_that_is_silent_for_a_moment_is_asked_for_again(bench: Bench) -> None:
    instance = bench.create()
    bench.faults.list_nothing(times=14)  # two looks at seven profiles
    gpu = bench.gpus.list()[0]
    assert (gpu.instances, gpu.complete) == ((instance,), True)


def test_a_list_that_stays_silent_is_no_proof_that_anything_is_gone(bench: Bench) -> None:
    bench.create()
    bench.faults.list_nothing()
    assert not bench.gpus.list()[0].complete
    for uuid in (None, "MIG-1"):
        with pytest.raises(SliceBusy, match="lists no GPU instance at memory slice 4 .* no free capacity"):
            bench.gpus.destroy(bench.uuid, "3g.20gb", Placement(4, 4), uuid)
    assert bench.standing() == 1
    bench.destroy()
    assert bench.standing() == 0


def test_one_profile_that_is_not_listed_is_noticed(bench: Bench) -> None:
    bench.create()
    bench.gpus.create(bench.uuid, "1g.5gb+me", Placement(0, 1))
    bench.faults.inject(Fault("nvmlDeviceGetGpuInstances", empty=True, times=1))
    assert [one.profile for one in bench.gpus.list()[0].instances] == ["1g.5gb+me", "3g.20gb"]


def test_a_silent_list_does_not_hide_what_another_program_put_in_the_place_of_a_lost_slice(
    bench: Bench, tmp_path: Path
) -> None:
    lost = bench.create()
    bench.faults.reset(0)
    other = Gpus(tmp_path / "its-own", simulated=True)
    theirs = other.create(bench.uuid, "2g.10gb", Placement(4, 2))
    bench.gpus.destroy(bench.uuid, "3g.20gb", Placement(4, 4), lost.mig_uuid)
    assert bench.gpus.list()[0].instances == (theirs,)


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_INVALID_ARGUMENT, pynvml.NVML_ERROR_NOT_FOUND])
@pytest.mark.parametrize(
    "call",
    [
        "nvmlGpuInstanceGetInfo",
        "nvmlGpuInstanceGetComputeInstanceById",
        "nvmlComputeInstanceGetInfo_v2",
        "nvmlDeviceGetGpuInstances",
        "nvmlDeviceGetMigMode",
    ],
)
def test_a_listing_that_overlaps_a_destroy_is_no_error(bench: Bench, call: str, code: int) -> None:
    bench.create()
    known = bench.gpus.list()
    bench.faults.inject(Fault(call, code, times=1))
    seen = bench.gpus.list()
    assert [replace(gpu, instances=()) for gpu in seen] == [replace(gpu, instances=()) for gpu in known]
    assert [one.placement for one in seen[0].instances] == [Placement(4, 4)]


def test_threads_that_list_while_others_create_and_destroy_see_no_error(bench: Bench) -> None:
    uuid, over = bench.uuid, threading.Event()

    def churn(start: int) -> None:
        for _ in range(15):
            made = bench.gpus.create(uuid, "1g.5gb", Placement(start, 1))
            bench.gpus.destroy(uuid, "1g.5gb", Placement(start, 1), made.mig_uuid)

    def listen() -> int:
        lists = 0
        while not over.is_set():
            assert all(gpu.fault is None for gpu in bench.gpus.list())
            lists += 1
        return lists

    with ThreadPoolExecutor(4) as pool:
        listening = [pool.submit(listen) for _ in range(2)]
        for done in [pool.submit(churn, start) for start in (0, 1)]:
            done.result()
        over.set()
        assert all(one.result() for one in listening)


@pytest.mark.parametrize(
    ("code", "times"),
    [
        (pynvml.NVML_ERROR_UNKNOWN, 1),
        (pynvml.NVML_ERROR_TIMEOUT, 1),
        (pynvml.NVML_ERROR_INVALID_ARGUMENT, 2),  # the first is for a handle that has become invalid
    ],
)
def test_a_gpu_that_answers_nonsense_is_at_fault_and_the_others_are_listed(
    bench: Bench, code: int, times: int
) -> None:
    bench.create()
    before = bench.gpus.list()
    bench.faults.inject(Fault("nvmlDeviceGetMigMode", code, times=times))
    first, *others = bench.gpus.list()
    assert (first.fault is not None, first.instances) == (True, before[0].instances)
    assert others == before[1:]
    assert bench.gpus.list() == before


def test_a_gpu_that_seems_to_have_lost_mig_altogether_keeps_its_slices(bench: Bench) -> None:
    bench.create()
    bench.faults.inject(Fault("nvmlDeviceGetMigMode", pynvml.NVML_ERROR_NOT_SUPPORTED))
    with pytest.raises(DriverUnavailable, match="does not support MIG"):
        bench.destroy()
    assert bench.standing() == 1


def test_a_rollback_whose_destroy_lies_is_noticed_and_done_later(bench: Bench) -> None:
    bench.faults.inject(Fault(CREATE_COMPUTE, pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES, times=1))
    bench.faults.leave_remnants(times=1)
    with pytest.raises(SliceBusy, match="still lists it"):
        bench.create()
    assert bench.standing() == 1
    bench.destroy()
    assert bench.standing() == 0


def test_a_rollback_whose_destroy_lies_is_noticed_though_the_list_is_silent(bench: Bench) -> None:
    bench.faults.inject(Fault(CREATE_COMPUTE, pynvml.NVML_ERROR_UNKNOWN, times=1))
    bench.faults.leave_remnants()
    bench.faults.inject(Fault("nvmlDeviceGetGpuInstances", empty=True))
    with pytest.raises(SliceBusy):
        bench.create()
    assert bench.standing() == 1
    bench.destroy()
    assert bench.standing() == 0


@pytest.mark.parametrize(
    ("call", "times"), [("nvmlGpuInstanceGetInfo", 1), ("nvmlComputeInstanceGetInfo_v2", 2)]
)
def test_a_new_instance_that_the_driver_denies_is_taken_back(bench: Bench, call: str, times: int) -> None:
    bench.faults.inject(Fault(call, pynvml.NVML_ERROR_INVALID_ARGUMENT, times=times))
    with pytest.raises(DriverUnavailable):
        bench.create()
    assert bench.standing() == 0


def test_what_comes_long_after_its_time_out_is_destroyed_when_the_host_is_tidied(bench: Bench) -> None:
    bench.faults.time_out(late=True)
    with pytest.raises(DriverUnavailable, match="Timeout"):
        bench.create()
    bench.destroy()  # as closing the session does
    bench.faults.finish_late()
    assert bench.standing() == 1
    bench.gpus.tidy()
    assert bench.standing() == 0


def test_of_two_time_outs_at_one_placement_both_instances_are_destroyed(bench: Bench) -> None:
    for late in (True, False):
        bench.faults.time_out(late=late, times=1)
        with pytest.raises(DriverUnavailable):
            bench.create()
        bench.destroy()
    bench.faults.finish_late()
    assert bench.standing() == 1
    Gpus(bench.lock_dir, simulated=True).tidy()  # in a gateway that was started since
    assert bench.standing() == 0


def test_tidying_keeps_the_record_of_a_session_at_the_placement_of_a_time_out(bench: Bench) -> None:
    bench.faults.time_out(late=True, times=1)
    with pytest.raises(DriverUnavailable):
        bench.create()
    bench.create()
    bench.gpus.tidy()
    bench.destroy()  # without the UUID, by the record
    assert bench.standing() == 0


def test_an_instance_stays_on_record_while_two_lies_hide_it(bench: Bench) -> None:
    """The destroy reports success, and the handle seems to be gone."""
    made = bench.create()
    bench.faults.leave_remnants()
    bench.on_pause = lambda: bench.faults.lose_handles(pynvml.NVML_ERROR_NOT_FOUND, times=9)
    with pytest.raises(SliceBusy):
        bench.gpus.destroy(bench.uuid, "3g.20gb", Placement(4, 4), made.mig_uuid)
    assert bench.standing() == 1
    bench.gpus.destroy(bench.uuid, "3g.20gb", Placement(4, 4), made.mig_uuid)
    assert bench.standing() == 0


def test_tidying_leaves_a_session_alone_that_came_to_the_place_of_a_time_out(bench: Bench) -> None:
    bench.faults.time_out(late=True, times=1)
    with pytest.raises(DriverUnavailable):
        bench.create()
    instance = bench.create()
    bench.faults.finish_late()
    bench.gpus.tidy()
    assert bench.gpus.list()[0].instances == (instance,)


def test_tidying_leaves_alone_what_another_program_uses(bench: Bench, tmp_path: Path) -> None:
    bench.faults.time_out(late=True, times=1)
    with pytest.raises(DriverUnavailable):
        bench.create()
    theirs = Gpus(tmp_path / "its-own", simulated=True).create(bench.uuid, "3g.20gb", Placement(4, 4))
    bench.gpus.tidy()
    assert bench.gpus.list()[0].instances == (theirs,)


# Killed halfway


def kill_in(bench: Bench, point: str) -> None:
    """A gateway in a process of its own is killed there while it creates the bench's slice."""
    child = os.fork()
    if not child:
        failpoints.arm(f"{point}=kill")
        with suppress(BaseException):
            bench.create()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL


@pytest.mark.parametrize("point", ["after-gpu-instance-create", "after-compute-instance-create"])
def test_what_a_killed_gateway_had_made_is_destroyed_by_the_next(bench: Bench, point: str) -> None:
    kill_in(bench, point)
    assert bench.standing() == 1
    Gpus(bench.lock_dir, simulated=True).destroy(bench.uuid, "3g.20gb", Placement(4, 4))
    assert bench.standing() == 0


@pytest.mark.parametrize("point", ["after-gpu-instance-create", "after-compute-instance-create"])
def test_what_another_program_made_after_a_kill_and_a_reset_is_not_taken_for_the_gateways(
    bench: Bench, point: str, tmp_path: Path
) -> None:
    """In the same place, of another id: something else stood first when it was made."""
    kill_in(bench, point)
    bench.faults.reset(0)
    other = Gpus(tmp_path / "its-own", simulated=True)
    other.create(bench.uuid, "1g.5gb", Placement(0, 1))
    other.create(bench.uuid, "3g.20gb", Placement(4, 4))
    bench.destroy()
    assert bench.standing() == 2


def test_what_was_made_before_the_last_boot_is_not_taken_for_what_stands_now(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.create()
    now = clock.read()
    monkeypatch.setattr(clock, "read", lambda: replace(now, boot="another"))
    bench.destroy()
    assert bench.standing() == 1


@pytest.mark.parametrize("point", ["after-compute-instance-destroy", "after-gpu-instance-destroy"])
def test_a_destroy_that_was_killed_is_finished_by_the_next(bench: Bench, point: str) -> None:
    made = bench.create()
    failpoints.arm(f"{point}=error")
    with pytest.raises(DriverUnavailable):
        bench.gpus.destroy(bench.uuid, "3g.20gb", Placement(4, 4), made.mig_uuid)
    bench.gpus.destroy(bench.uuid, "3g.20gb", Placement(4, 4), made.mig_uuid)
    assert bench.standing() == 0


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"boot": 1}'])
def test_a_record_that_cannot_be_read_makes_nothing_the_gateways(bench: Bench, content: bytes) -> None:
    made = bench.create()
    (record,) = bench.lock_dir.glob("*.json")
    record.write_bytes(content)
    bench.destroy()
    assert bench.standing() == 1
    bench.gpus.destroy(bench.uuid, "3g.20gb", Placement(4, 4), made.mig_uuid)
    assert bench.standing() == 0


def test_no_record_stays_when_nothing_stands(bench: Bench) -> None:
    for _ in range(2):
        bench.create()
        bench.destroy()
    bench.faults.inject(Fault(CREATE, pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES, times=1))
    with pytest.raises(PlacementTaken):
        bench.create()
    assert [path for path in bench.lock_dir.iterdir() if path.suffix != ".lock"] == []


def test_a_compute_instance_that_is_gone_already_is_fine(bench: Bench) -> None:
    bench.create()
    instance = pynvml.nvmlDeviceGetGpuInstanceById(pynvml.nvmlDeviceGetHandleByIndex(0), 0)
    pynvml.nvmlComputeInstanceDestroy(pynvml.nvmlGpuInstanceGetComputeInstanceById(instance, 0))
    assert bench.gpus.list()[0].instances[0].mig_uuid is None
    bench.destroy()
    assert bench.standing() == 0


def test_an_instance_that_another_process_destroys_meanwhile_is_gone(bench: Bench) -> None:
    bench.create()
    bench.faults.inject(Fault("nvmlGpuInstanceDestroy", pynvml.NVML_ERROR_NOT_FOUND, effect=True))
    bench.destroy()
    assert bench.standing() == 0


def test_a_lost_gpu_is_listed_as_it_was_last_seen(bench: Bench) -> None:
    bench.create()
    before = bench.gpus.list()
    bench.faults.lose(0, pynvml.NVML_ERROR_GPU_IS_LOST)
    assert bench.gpus.list() == [replace(before[0], fault="GPU is lost"), *before[1:]]
    for act in (bench.create, bench.destroy):
        with pytest.raises(GpuLost):
            act()
    bench.faults.clear()
    assert bench.gpus.list() == before


def test_a_gpu_that_was_lost_before_the_start_is_listed_with_its_fault(bench: Bench) -> None:
    bench.faults.lose(1, pynvml.NVML_ERROR_RESET_REQUIRED)
    first, lost, third = bench.gpus.list()
    assert lost.fault == "GPU requires restart"
    assert (lost.index, lost.profiles) == (1, ())
    assert first.fault is third.fault is None
    bench.faults.clear()
    assert [gpu.fault for gpu in bench.gpus.list()] == [None, None, None]


def test_the_other_gpus_work_while_one_is_lost(bench: Bench) -> None:
    bench.faults.lose(1, pynvml.NVML_ERROR_GPU_IS_LOST)
    bench.create()
    bench.destroy()


def test_an_empty_list_is_no_proof_that_anything_is_gone(bench: Bench) -> None:
    bench.create()
    bench.faults.hide_devices()
    for act in (bench.gpus.check, bench.gpus.list):
        with pytest.raises(DriverUnavailable, match="none of the 3 GPUs"):
            act()
    bench.faults.clear()
    assert bench.standing() == 1


def test_a_host_that_never_had_a_gpu_has_none(bench: Bench) -> None:
    bench.faults.hide_devices()
    assert bench.gpus.list() == []


@pytest.mark.parametrize(
    ("current", "pending", "mode"),
    [(0, 0, MigMode.DISABLED), (0, 1, MigMode.PENDING_RESET), (1, 0, MigMode.PENDING_RESET)],
)
def test_a_gpu_offers_nothing_unless_its_mig_mode_is_on_and_stays_on(
    bench: Bench, current: int, pending: int, mode: MigMode
) -> None:
    bench.faults.set_mig_mode(0, current, pending)
    gpu = bench.gpus.list()[0]
    assert (gpu.mig_mode, gpu.profiles) == (mode, ())
    with pytest.raises(DriverUnavailable, match=r"nvidia-smi -i \S+ -mig 1"):
        bench.create()


def test_what_stands_is_listed_until_the_reset_that_is_pending(bench: Bench) -> None:
    instance = bench.create()
    bench.faults.set_mig_mode(0, current=1, pending=0)
    assert bench.gpus.list()[0].instances == (instance,)
    bench.faults.reset(0)
    assert bench.gpus.list()[0].instances == ()
    bench.destroy()


def test_nvml_is_initialised_again_after_a_fork(bench: Bench) -> None:
    bench.create()
    child = os.fork()
    if not child:
        os._exit(42 if bench.gpus.list()[0].instances else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 42


@pytest.mark.parametrize("name", [CREATE, "nvmlGpuInstanceDestroy"])
def test_a_gpu_is_locked_while_it_is_changed_and_the_others_are_not(
    bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked: list[tuple[bool, bool]] = []
    uuids = [gpu.uuid for gpu in bench.gpus.list()]
    wrapped = getattr(pynvml, name)

    def call(*arguments: Any) -> Any:
        locked.append((_is_locked(bench.lock_dir, uuids[0]), _is_locked(bench.lock_dir, uuids[1])))
        return wrapped(*arguments)

    monkeypatch.setattr(pynvml, name, call)
    bench.create()
    bench.destroy()
    assert locked == [(True, False)]
    assert not _is_locked(bench.lock_dir, uuids[0])


def _is_locked(lock_dir: Path, gpu_uuid: str) -> bool:
    with open(lock_dir / f"{gpu_uuid}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_locks_that_cannot_be_made_are_a_clear_error_without_a_path(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    gpus = Gpus(tmp_path / "file" / "locks")
    with pytest.raises(DriverUnavailable, match="make its lock directory writable") as refusal:
        gpus.create(bench.uuid, "3g.20gb", Placement(4, 4))
    assert str(tmp_path) not in str(refusal.value)


# Several processes


@pytest.mark.parametrize(
    "locks", [("locks", "locks"), ("mine", "yours")], ids=["of one gateway", "of two that know nothing"]
)
def test_of_two_processes_that_want_the_last_slice_exactly_one_gets_it(
    locks: tuple[str, str], tmp_path: Path
) -> None:
    racers = [_racer(tmp_path, directory) for directory in locks]
    try:
        for racer in racers:
            assert _answer(racer) == "ready"
        for _ in range(100):
            for racer in racers:
                _ask(racer, "create")
            answers = [_answer(racer) for racer in racers]
            assert sorted(answers) == ["taken", "won"]
            winner = racers[answers.index("won")]
            _ask(winner, "destroy")
            assert _answer(winner) == "gone"
    finally:
        for racer in racers:
            racer.communicate()


def test_a_process_killed_while_it_changes_a_gpu_holds_up_nobody(tmp_path: Path) -> None:
    for _ in range(4):
        with _racer(tmp_path, "locks") as racer:
            assert _answer(racer) == "ready"
            for _ in range(30):
                _ask(racer, "create")
                _ask(racer, "destroy")
            _answer(racer)
            racer.kill()
    with simulated_driver("1xA100-40GB", tmp_path / "simulated-gpus.json"):
        gpus = Gpus(tmp_path / "locks", simulated=True)
        (gpu,) = gpus.list()
        gpus.destroy(gpu.uuid, "7g.40gb", Placement(0, 8))
        gpus.create(gpu.uuid, "7g.40gb", Placement(0, 8))


def _racer(directory: Path, locks: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.repositories.gpu_racer"]
    return subprocess.Popen(
        [*command, directory / "simulated-gpus.json", directory / locks],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )


def _ask(racer: subprocess.Popen[str], what: str) -> None:
    assert racer.stdin
    racer.stdin.write(f"{what}\n")
    racer.stdin.flush()


def _answer(racer: subprocess.Popen[str]) -> str:
    assert racer.stdout
    return racer.stdout.readline().strip()


# A real driver, read only


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
