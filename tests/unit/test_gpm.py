"""How busy a slice is by the driver's own meter, over the simulated driver, and what it cannot tell."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pynvml
import pytest

from gateway.domain.mig import Instance, Placement
from gateway.errors import DriverUnavailable, GpuLost
from gateway.repositories.nvml.gpm import Gpm
from gateway.repositories.nvml.gpus import Gpus
from gateway.simulation.machine import Fault
from tests.fakes.driver import simulated_driver
from tests.fakes.faults import Faults

Driver = Callable[[str], tuple[Gpus, Faults]]


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    with ExitStack() as installed:

        def install(spec: str) -> tuple[Gpus, Faults]:
            faults = installed.enter_context(simulated_driver(spec, tmp_path / "gpus.json"))
            return Gpus(tmp_path / "locks", simulated=True, whole_gpus=True), faults

        yield install


def slice_of(gpus: Gpus, profile: str, start: int) -> Instance:
    [gpu] = gpus.list()
    size = next(one for one in gpu.profiles if one.name == profile).placements[0].size
    return gpus.create(gpu.uuid, profile, Placement(start, size))


def measured(gpus: Gpus, uuid: str | None) -> float | None:
    """The first call begins a measurement. A measurement takes more than 0.1 s."""
    gpus.busy(str(uuid))
    time.sleep(0.15)
    return gpus.busy(str(uuid))


@pytest.mark.parametrize(("kind", "profile"), [("H100-80GB", "3g.40gb"), ("RTX-PRO-6000", "1g.24gb")])
def test_each_slice_of_a_hopper_or_later_gpu_has_its_own_meter(
    driver: Driver, kind: str, profile: str
) -> None:
    gpus, faults = driver(f"1x{kind}")
    works = slice_of(gpus, profile, 0)
    idles = slice_of(gpus, profile, works.placement.size)
    faults.work(0, 0, processes=2, busy=37.5)
    faults.work(0, idles.placement.start, processes=1, busy=0.0)
    assert gpus.processes(str(works.mig_uuid)) == 2
    assert measured(gpus, works.mig_uuid) == pytest.approx(0.375)
    assert measured(gpus, idles.mig_uuid) == 0.0


def test_the_first_call_can_tell_nothing(driver: Driver) -> None:
    gpus, faults = driver("1xH100-80GB")
    made = slice_of(gpus, "3g.40gb", 0)
    faults.work(0, 0, processes=1, busy=50)
    assert gpus.busy(str(made.mig_uuid)) is None


def test_gpus_before_hopper_have_no_meter(driver: Driver) -> None:
    gpus, faults = driver("1xA100-40GB")
    made = slice_of(gpus, "3g.20gb", 0)
    faults.work(0, 0, processes=1, busy=90)
    assert measured(gpus, made.mig_uuid) is None


def test_a_driver_that_is_too_old_has_no_meter(driver: Driver) -> None:
    gpus, faults = driver("1xH100-80GB")
    made = slice_of(gpus, "3g.40gb", 0)
    faults.inject(Fault("nvmlGpmQueryDeviceSupport", pynvml.NVML_ERROR_FUNCTION_NOT_FOUND))
    assert measured(gpus, made.mig_uuid) is None


def test_a_whole_gpu_is_measured_if_it_can_be(driver: Driver) -> None:
    gpus, faults = driver("1xH200-141GB")
    faults.set_mig_mode(0, pynvml.NVML_DEVICE_MIG_DISABLE, pynvml.NVML_DEVICE_MIG_DISABLE)
    faults.compute(0, processes=1, busy=80)
    [gpu] = gpus.list()
    assert measured(gpus, gpu.uuid) == pytest.approx(0.8)


def test_a_whole_gpu_without_the_meter_cannot_tell(driver: Driver) -> None:
    gpus, faults = driver("1xL4")
    faults.compute(0, processes=1, busy=80)
    [gpu] = gpus.list()
    assert measured(gpus, gpu.uuid) is None


@pytest.fixture
def buffers(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Counts what was allocated and freed."""
    counts = {"nvmlGpmSampleAlloc": 0, "nvmlGpmSampleFree": 0}

    def count(name: str, call: Any) -> None:
        def counted(*arguments: Any) -> Any:
            counts[name] += 1
            return call(*arguments)

        monkeypatch.setattr(pynvml, name, counted)

    for name in counts:
        count(name, getattr(pynvml, name))
    return counts


def test_a_lost_gpu_is_an_error_and_leaves_no_buffer(driver: Driver, buffers: dict[str, int]) -> None:
    gpus, faults = driver("1xH100-80GB")
    made = slice_of(gpus, "3g.40gb", 0)
    faults.inject(Fault("nvmlGpmMigSampleGet", pynvml.NVML_ERROR_GPU_IS_LOST))
    for _ in range(5):
        with pytest.raises(GpuLost):
            gpus.busy(str(made.mig_uuid))
    assert buffers["nvmlGpmSampleAlloc"] == buffers["nvmlGpmSampleFree"] == 5


def test_one_buffer_a_slice_is_kept_and_an_old_one_is_freed(driver: Driver, buffers: dict[str, int]) -> None:
    gpus, _ = driver("1xH100-80GB")
    first, second = (slice_of(gpus, "3g.40gb", start) for start in (0, 4))
    now = [0.0]
    gpm = Gpm(clock=lambda: now[0])

    def read(made: Instance, at: float) -> None:
        now[0] = at
        gpm.busy(str(made.mig_uuid), pynvml.nvmlDeviceGetHandleByUUID(made.mig_uuid))

    for at in range(0, 600, 60):
        read(first, at)
        read(second, at)
    assert buffers["nvmlGpmSampleAlloc"] - buffers["nvmlGpmSampleFree"] == 2
    read(second, 2000)
    assert buffers["nvmlGpmSampleAlloc"] - buffers["nvmlGpmSampleFree"] == 1


@pytest.mark.parametrize(("later", "is_known"), [(0.05, False), (0.11, True), (899, True), (901, False)])
def test_only_samples_that_are_near_but_not_too_near_are_compared(
    driver: Driver, later: float, is_known: bool
) -> None:
    gpus, faults = driver("1xH100-80GB")
    made = slice_of(gpus, "3g.40gb", 0)
    faults.work(0, 0, processes=1, busy=25)
    times = iter([0.0, later])
    gpm = Gpm(clock=lambda: next(times))
    device = pynvml.nvmlDeviceGetHandleByUUID(made.mig_uuid)
    gpm.busy(str(made.mig_uuid), device)
    time.sleep(0.15)  # the driver's own clock
    assert gpm.busy(str(made.mig_uuid), device) == (0.25 if is_known else None)


@pytest.mark.parametrize(
    ("code", "value"),
    [
        (pynvml.NVML_ERROR_NO_DATA, 50.0),
        (pynvml.NVML_SUCCESS, float("nan")),
        (pynvml.NVML_SUCCESS, -1.0),
        (pynvml.NVML_SUCCESS, 250.0),
    ],
)
def test_a_value_that_makes_no_sense_is_unknown(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, code: int, value: float
) -> None:
    gpus, _ = driver("1xH100-80GB")
    made = slice_of(gpus, "3g.40gb", 0)

    def answer(wanted: Any) -> Any:
        wanted.metrics[0].nvmlReturn, wanted.metrics[0].value = code, value
        return wanted

    monkeypatch.setattr(pynvml, "nvmlGpmMetricsGet", answer)
    assert measured(gpus, made.mig_uuid) is None


def test_a_slice_that_is_gone_is_an_error(driver: Driver) -> None:
    gpus, _ = driver("1xH100-80GB")
    made = slice_of(gpus, "3g.40gb", 0)
    gpus.destroy(made.gpu_uuid, "3g.40gb", made.placement, made.mig_uuid)
    with pytest.raises(DriverUnavailable):
        gpus.busy(str(made.mig_uuid))


# What nvml.h documents of the functions themselves.


def code(call: Callable[[], Any]) -> int:
    with pytest.raises(pynvml.NVMLError) as refused:
        call()
    return int(refused.value.value)


def test_the_simulated_meter_refuses_what_a_driver_refuses(driver: Driver) -> None:
    gpus, _ = driver("1xH100-80GB")
    made = slice_of(gpus, "3g.40gb", 0)
    device, gpu = pynvml.nvmlDeviceGetHandleByUUID(made.mig_uuid), pynvml.nvmlDeviceGetHandleByIndex(0)
    sample, other = pynvml.nvmlGpmSampleAlloc(), pynvml.nvmlGpmSampleAlloc()
    invalid, unsupported = pynvml.NVML_ERROR_INVALID_ARGUMENT, pynvml.NVML_ERROR_NOT_SUPPORTED
    assert code(lambda: pynvml.nvmlGpmMigSampleGet(device, made.gi_id, sample)) == invalid
    assert code(lambda: pynvml.nvmlGpmMigSampleGet(gpu, made.gi_id + 1, sample)) == invalid
    assert code(lambda: pynvml.nvmlGpmSampleGet(gpu, sample)) == unsupported
    pynvml.nvmlGpmMigSampleGet(gpu, made.gi_id, sample)
    wanted = pynvml.c_nvmlGpmMetricsGet_t(sample1=sample, sample2=other, numMetrics=1)
    mismatch = pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH
    assert code(lambda: pynvml.nvmlGpmMetricsGet(wanted)) == mismatch
    wanted.version = pynvml.NVML_GPM_METRICS_GET_VERSION
    assert code(lambda: pynvml.nvmlGpmMetricsGet(wanted)) == invalid, "a sample that was never taken"
    pynvml.nvmlGpmSampleFree(other)
    assert code(lambda: pynvml.nvmlGpmSampleFree(other)) == invalid
    assert code(lambda: pynvml.nvmlGpmSampleFree(pynvml.c_nvmlGpmSample_t())) == invalid
    pynvml.nvmlGpmSampleFree(sample)
