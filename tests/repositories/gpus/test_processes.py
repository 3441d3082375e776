"""Several processes and threads on one GPU: forks, locks and races."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pynvml
import pytest

from gateway.domain.mig import Placement
from gateway.errors import DriverUnavailable
from gateway.repositories.nvml.gpus import Gpus
from tests.fakes.driver import simulated_driver
from tests.paths import REPOSITORY
from tests.repositories.gpus.conftest import CREATE, Bench


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
