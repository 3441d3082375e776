"""Whose instance it is: what comes after a time-out, and what a killed gateway leaves behind."""

import os
import signal
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pynvml
import pytest

from gateway import failpoints
from gateway.domain import clock
from gateway.domain.mig import Placement
from gateway.errors import DriverUnavailable, PlacementTaken, SliceBusy
from gateway.repositories.nvml.gpus import Gpus
from gateway.simulation.machine import Fault
from tests.repositories.gpus.conftest import CREATE, Bench


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


def test_an_instance_whose_record_the_disk_does_not_return_is_destroyed_once_it_does(bench: Bench) -> None:
    bench.create()
    (record,) = bench.lock_dir.glob("*.json")
    content = record.read_bytes()
    record.unlink()
    record.mkdir()  # reading it fails
    with pytest.raises(DriverUnavailable, match="cannot read or write its record"):
        bench.destroy()
    record.rmdir()
    record.write_bytes(content)
    bench.destroy()
    assert bench.standing() == 0


def test_no_record_stays_when_nothing_stands(bench: Bench) -> None:
    for _ in range(2):
        bench.create()
        bench.destroy()
    bench.faults.inject(Fault(CREATE, pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES, times=1))
    with pytest.raises(PlacementTaken):
        bench.create()
    assert [path for path in bench.lock_dir.iterdir() if path.suffix != ".lock"] == []
