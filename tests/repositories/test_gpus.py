"""One contract for the fake GPUs and for the real repository over the simulated driver, kind by kind;
then what only a driver can do wrong; then, reading only, a real driver where there is one."""

import fcntl
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import pynvml
import pytest

from gateway.domain.mig import Gpu, Instance, MigMode, Placement
from gateway.domain.placement import Occupied
from gateway.errors import DriverUnavailable, GpuLost, PlacementTaken, SliceBusy, UnknownProfile
from gateway.repositories.nvml.gpus import Gpus
from gateway.simulation.catalogue import KINDS
from gateway.simulation.faults import Faults
from gateway.simulation.machine import Fault
from tests.fakes.driver import simulated_driver, unload
from tests.fakes.gpus import FakeGpus, free_placements
from tests.paths import REPOSITORY

CREATE = "nvmlDeviceCreateGpuInstanceWithPlacement"
CREATE_COMPUTE = "nvmlGpuInstanceCreateComputeInstance"
MIG_KINDS = [name for name, kind in KINDS.items() if kind.profiles]


class AnyGpus(Protocol):
    def check(self) -> None: ...
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
