"""Processes share one state, also after one was killed."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pynvml

from gateway.simulation.store import Store
from tests.fakes.driver import simulated_driver
from tests.fakes.faults import Faults
from tests.unit.simulated_driver.conftest import create, driver, fill, mig_uuid, refused, room


def test_nothing_works_before_init_or_after_shutdown(state_file: Path) -> None:
    with simulated_driver("1xA30", state_file):
        with refused(pynvml.NVML_ERROR_UNINITIALIZED):
            pynvml.nvmlDeviceGetCount()
        pynvml.nvmlInit()
        assert pynvml.nvmlDeviceGetCount() == 1
        pynvml.nvmlShutdown()
        with refused(pynvml.NVML_ERROR_UNINITIALIZED):
            pynvml.nvmlDeviceGetCount()


def test_a_forked_child_must_initialise_for_itself(faults: Faults) -> None:
    child = os.fork()
    if not child:
        os._exit(_count_code())
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == pynvml.NVML_ERROR_UNINITIALIZED


def _count_code() -> int:
    try:
        pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError as error:
        return int(error.value)
    return 0


def test_processes_share_one_state(gpu: Any, state_file: Path) -> None:
    uuid = mig_uuid(fill(create(gpu, "1g.5gb", 3), 1))
    script = f"""
import pynvml
from gateway import simulation
from pathlib import Path
simulation.install("2xa100-40gb, 1xl4", Path({str(state_file)!r}))
pynvml.nvmlInit()
device = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(pynvml.nvmlDeviceGetHandleByIndex(0), 0)
print(pynvml.nvmlDeviceGetUUID(device))
"""
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == uuid


def test_a_process_killed_at_any_moment_leaves_a_state_that_hangs_together(state_file: Path) -> None:
    script = f"""
import pynvml, random
from ctypes import byref
from gateway import simulation
from pathlib import Path
simulation.install("1xA100-40GB", Path({str(state_file)!r}))
pynvml.nvmlInit()
gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
print("ready", flush=True)
while True:
    try:
        place = pynvml.c_nvmlGpuInstancePlacement_t(random.randrange(7), 1)
        instance = pynvml.nvmlDeviceCreateGpuInstanceWithPlacement(gpu, 19, byref(place))
        compute = pynvml.nvmlGpuInstanceCreateComputeInstance(instance, 0)
        pynvml.nvmlComputeInstanceDestroy(compute)
        pynvml.nvmlGpuInstanceDestroy(instance)
    except pynvml.NVMLError_InsufficientResources:
        pass
    print("turn", flush=True)
"""
    with driver("1xA100-40GB", state_file):
        gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
        for turns in range(5):
            _run_and_kill(script, turns)
            (machine,) = Store(state_file).read().gpus
            taken = [instance.start for instance in machine.instances]
            assert len(taken) == len(set(taken))
            assert room(gpu).get("1g.5gb", 0) == 7 - len(taken)
            for instance in machine.instances:
                _destroy_by_id(gpu, instance.id)


def _run_and_kill(script: str, turns: int) -> None:
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for _ in range(1 + 3 * turns):
            assert process.stdout.readline()
        process.send_signal(signal.SIGKILL)


def _destroy_by_id(gpu: Any, instance_id: int) -> None:
    instance = pynvml.nvmlDeviceGetGpuInstanceById(gpu, instance_id)
    with suppress(pynvml.NVMLError_NotFound):
        pynvml.nvmlComputeInstanceDestroy(pynvml.nvmlGpuInstanceGetComputeInstanceById(instance, 0))
    pynvml.nvmlGpuInstanceDestroy(instance)
