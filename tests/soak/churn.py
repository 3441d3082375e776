"""Sessions come and go at random while driver, Docker and pipe file fail: nothing may get lost.

`python -m tests.soak.churn --cycles 10000 --seed 7 --line 10` prints what happened. Real are the use cases,
the SQLite database, and nvidia-ml-py over simulated GPUs; the containers and the pipe file are fakes. With
`--line`, each cycle begins with at least so many requests in line.
"""

import argparse
import logging
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import pynvml
from sqlalchemy import select
from sqlalchemy.orm import Session as Orm

from gateway.database_url import DatabaseUrl
from gateway.domain.audit import REAPER, Action, acting
from gateway.domain.containers import GPU_LOST
from gateway.domain.lease import Extension
from gateway.domain.mig import FULL, Instance
from gateway.domain.models import ProfileRequest
from gateway.domain.waiting_request import WaitingRequest
from gateway.errors import ContainerFailed, DockerUnavailable, GatewayError, PipesUnavailable
from gateway.repositories.nvml.gpus import Gpus
from gateway.repositories.sql import schema
from gateway.simulation.machine import Fault
from tests.conftest import NOTHING, Bench, make_bench
from tests.fakes.driver import simulated_driver
from tests.fakes.faults import Faults

GPUS = "2xA100-40GB,1xA30,1xRTX-PRO-6000,2xL4"
_SWITCHED, _WHOLE = 2, (4, 5)  # the indexes of the A30, whose MIG mode changes, and of the L4
USERS = [f"user{number}" for number in range(60)]
_CREATE, _CREATE_COMPUTE = "nvmlDeviceCreateGpuInstanceWithPlacement", "nvmlGpuInstanceCreateComputeInstance"
_DESTROY, _DESTROY_COMPUTE = "nvmlGpuInstanceDestroy", "nvmlComputeInstanceDestroy"
FAULTS = [
    *(Fault(call, pynvml.NVML_ERROR_TIMEOUT, effect=True, times=2) for call in (_CREATE, _CREATE_COMPUTE)),
    *(Fault(call, pynvml.NVML_ERROR_UNKNOWN, times=2) for call in (_CREATE, _CREATE_COMPUTE, _DESTROY)),
    Fault(_CREATE, pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES, times=3),
    Fault(_CREATE, pynvml.NVML_ERROR_NO_PERMISSION, times=2),
    *(Fault(call, pynvml.NVML_ERROR_IN_USE, times=6) for call in (_DESTROY, _DESTROY_COMPUTE)),
    Fault(_DESTROY, pynvml.NVML_SUCCESS, times=2),  # and nothing was destroyed
    Fault("*", pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, times=9),
]


class Churn:
    def __init__(self, bench: Bench, faults: Faults, seed: int, line: int = 0) -> None:
        self.bench, self.faults, self._line = bench, faults, line
        self.chance = random.Random(seed)
        self.events: Counter[str] = Counter()
        gpus = bench.gpus.list()
        self._count, self._gpus = len(gpus), gpus
        self._promised: dict[str, tuple[datetime, int]] = {}  # until when, and how often it got later
        self._mig = True  # of the GPU whose MIG mode changes
        self._foreign: set[tuple[object, ...]] = set()  # instances that another program has made
        self._profiles = sorted({profile.name for gpu in gpus for profile in gpu.profiles})
        self._profiles += [FULL] * 4

    def run(self, cycles: int, progress: Callable[[str], None]) -> None:
        for cycle in range(cycles):
            self._open()
            self._line_up()
            self._serve_the_line()
            for chance, act in self._ACTS:
                if self.chance.random() < chance:
                    self.events[act.__name__.strip("_")] += 1
                    with suppress(GatewayError):
                        act(self)
            self.bench.clock.advance(minutes=self.chance.random() * 4)
            if cycle % 20 == 19:
                self.heal()
                self.require_agreement()
            if cycle % 500 == 499:
                progress(f"{cycle + 1} cycles")

    def heal(self) -> None:
        """All faults end, and the reaper comes by; a session that was being closed is closed then."""
        self._mend()
        self.faults.finish_late()
        self.bench.gateway.reaper.reap()
        self.bench.reconciler.reconcile()
        self._serve_the_line()

    def require_agreement(self) -> None:
        """Driver, database, containers, routes and files are of the same sessions."""
        sessions = {session.id: session for session in self.bench.sessions.list()}
        there = self.bench.leftovers()
        for part in ("containers", "pipes", "files"):
            assert sorted(there[part]) == sorted(sessions), part
        gpus = self.bench.gpus.list()
        whole = [session for session in sessions.values() if session.mig_profile == FULL]
        assert {session.gpu for session in whole} <= {gpu.uuid for gpu in gpus if gpu.is_whole}
        for session in whole:  # nobody is beside it
            assert [other.id for other in sessions.values() if other.gpu == session.gpu] == [session.id]
        slices = [session for session in sessions.values() if session.mig_profile != FULL]
        leased = {(s.gpu, s.mig_profile, s.placement, s.gpu_uuid) for s in slices}
        standing = [instance for gpu in gpus for instance in gpu.instances if instance.profile != FULL]
        assert len(standing) == len(leased) + len(self._foreign), standing
        assert {_identity(instance) for instance in standing} == leased | self._foreign
        self._require_a_sound_line(set(sessions))
        self.events["agreements"] += 1

    def _require_a_sound_line(self, sessions: set[str]) -> None:
        """Nobody waits and has a session. A promise is as it was or earlier, or its delay is on record."""
        with self.bench.database.read() as rows:
            line = rows.line()
            assert not rows.opened_from_line()
        assert not {request.id for request in line} & sessions
        promised = {
            request.id: (request.starts_at, self._delays(request.id)) for request in line if request.starts_at
        }
        for session_id in self._promised.keys() & {request.id for request in line}:
            (before, delays), after = self._promised[session_id], promised.get(session_id)
            if after is None or after[0] > before:
                assert self._delays(session_id) > delays, (session_id, before, after)
                self.events["promise got later, and it is on record"] += 1
            else:
                self.events["promise kept"] += 1
        self._promised = promised
        self.events["in line, at agreements"] += len(line)
        self._require_demand(line)

    def _delays(self, session_id: str) -> int:
        with self.bench.database.read() as rows:
            recorded = [event.what for event in rows.events(session_id=session_id)]
        return recorded.count(Action.PROMISE_DELAYED)

    def _require_demand(self, line: Sequence[WaitingRequest]) -> None:
        """The record of demand has each request in line, from when it joined or up to ten minutes before."""
        with Orm(self.bench.database.engine) as rows:
            counted = rows.scalars(select(ProfileRequest).order_by(ProfileRequest.at)).all()
        for request in line:
            asked_at, before = request.asked_at, timedelta(minutes=10)
            matching = [
                each
                for each in counted
                if (each.user_id, each.mig_profile) == (request.user_id, request.mig_profile)
                and asked_at - before <= each.at <= asked_at
            ]
            assert matching or asked_at < counted[0].at, request.named  # the oldest records are deleted
            self.events["waits, and is counted as demand"] += 1

    def drain(self) -> None:
        self.bench.clock.advance(days=1)
        self.heal()
        self.bench.clock.advance(days=1)
        self.heal()
        assert self.bench.gateway.queue.places() == []
        instances = [instance for gpu in self.bench.gpus.list() for instance in gpu.instances]
        left = [_identity(instance) for instance in instances if instance.profile != FULL]
        assert set(left) == self._foreign
        assert {**self.bench.leftovers(), "instances": []} == NOTHING

    def _open(self) -> None:
        user, profile = self.chance.choice(USERS), self.chance.choice(self._profiles)
        try:
            self.bench.sessions.open(user, timedelta(minutes=self.chance.randint(5, 120)), profile)
            self.events["opened"] += 1
        except GatewayError as error:
            self.events[type(error).__name__] += 1

    def _line_up(self) -> None:
        """Half of those who find no slice wait for one, and more if the line is too short."""
        if self.chance.random() < 0.5:
            self._ask_and_wait(self.chance.choice(USERS))
        waiting = {place.request.user_id for place in self.bench.gateway.queue.places()}
        busy = waiting | {session.user_id for session in self.bench.sessions.list()}
        free = [user for user in USERS if user not in busy]
        for user in self.chance.sample(free, max(0, min(self._line - len(waiting), len(free)))):
            self._ask_and_wait(user)

    def _ask_and_wait(self, user: str) -> None:
        profile = self.chance.choice(self._profiles)
        lease, wait = timedelta(minutes=self.chance.randint(5, 120)), self.chance.choice((10, 60, 600))
        try:
            longest = timedelta(minutes=wait)
            wanted = self.bench.sessions.wanted(user, lease, profile, None, False, None, longest)
            self.bench.gateway.queue.join(wanted)
            self.events["asked to wait"] += 1
        except GatewayError as error:
            self.events[f"not in line: {type(error).__name__}"] += 1

    def _serve_the_line(self) -> None:
        queue = self.bench.gateway.queue
        with suppress(GatewayError), acting(REAPER):
            for session_id in queue.serve():
                queue.open(session_id)
                with self.bench.database.read() as rows:
                    session = rows.get(session_id)
                self.events["opened from the line" if session else "in line again"] += 1

    def _move_in_line(self) -> None:
        if places := self.bench.gateway.queue.places():
            self.bench.gateway.queue.move(self.chance.choice(places).request.id, self.chance.randint(-2, 5))

    def _leave_the_line(self) -> None:
        if places := self.bench.gateway.queue.places():
            self.bench.gateway.queue.leave(self.chance.choice(places).request.id)

    def _extend(self) -> None:
        if sessions := self.bench.sessions.list():
            extension = Extension(timedelta(minutes=self.chance.randint(1, 120)))
            self.bench.leases.extend(self.chance.choice(sessions).id, extension)
            self.events["extended"] += 1

    def _close(self) -> None:
        if sessions := self.bench.sessions.list():
            self.bench.sessions.close(self.chance.choice(sessions).id)

    def _reap(self) -> None:
        self.bench.gateway.reaper.reap()

    def _reconcile(self) -> None:
        self.bench.reconciler.reconcile()

    def _end_container(self) -> None:
        if containers := self.bench.containers.list():
            self.bench.containers.end(self.chance.choice(containers).session_id)

    def _lose_container(self) -> None:
        if containers := self.bench.containers.list():
            self.bench.containers.lose(self.chance.choice(containers).session_id)

    def _break_driver(self) -> None:
        self.faults.inject(self.chance.choice(FAULTS))

    def _lose_gpu(self) -> None:
        self.faults.lose(self.chance.randrange(self._count), pynvml.NVML_ERROR_GPU_IS_LOST)

    def _hide_gpus(self) -> None:
        self.faults.hide_devices()

    def _hold_slice(self) -> None:
        self.faults.hold(self.chance.randrange(self._count), self.chance.randrange(8), "nv-hostengine")

    def _reset_gpu(self) -> None:
        index = self.chance.randrange(self._count)
        self.faults.reset(index)
        self._foreign = {one for one in self._foreign if one[0] != self._gpus[index].uuid}

    def _switch_mig(self) -> None:
        """An administrator changes the MIG mode and resets the GPU, even if sessions use it."""
        on, off = pynvml.NVML_DEVICE_MIG_ENABLE, pynvml.NVML_DEVICE_MIG_DISABLE
        self._mig = not self._mig
        self.faults.set_mig_mode(_SWITCHED, off if self._mig else on, on if self._mig else off)
        self.faults.reset(_SWITCHED)
        self._foreign = {one for one in self._foreign if one[0] != self._gpus[_SWITCHED].uuid}

    def _compute(self) -> None:
        self.faults.compute(self.chance.choice(_WHOLE), self.chance.choice([0, 0, 1, 3]))

    def _lose_gpu_inside(self) -> None:
        if containers := self.bench.containers.list():
            self.bench.containers.deviate(self.chance.choice(containers).session_id, GPU_LOST)

    def _list_nothing(self) -> None:
        self.faults.list_nothing(times=self.chance.choice([1, 11, 60, None]))

    def _lose_handles(self) -> None:
        code = self.chance.choice([pynvml.NVML_ERROR_INVALID_ARGUMENT, pynvml.NVML_ERROR_NOT_FOUND])
        self.faults.lose_handles(code, times=self.chance.randint(1, 5))

    def _time_out(self) -> None:
        self.faults.time_out(late=self.chance.random() < 0.5, times=1)

    def _finish_late(self) -> None:
        self.faults.finish_late()

    def _leave_remnants(self) -> None:
        self.faults.leave_remnants(times=self.chance.randint(1, 3))

    def _another_program(self) -> None:
        """Makes an instance wherever one fits, as little as it takes."""
        index = self.chance.randrange(_WHOLE[0])
        if index == _SWITCHED and not self._mig:
            return
        profile = self.chance.choice(self._gpus[index].profiles)
        start = self.chance.choice(profile.placements).start
        if len(self._foreign) < 4 and self.faults.stand(index, profile.driver_id, start):
            self._foreign.add(self._made_elsewhere(index, start))

    def _made_elsewhere(self, index: int, start: int) -> tuple[object, ...]:
        gpu = self._gpus[index]
        [made] = [one for one in self.faults.standing(index) if one.start == start]
        [profile] = [one for one in gpu.profiles if one.driver_id == made.profile]
        return gpu.uuid, profile.name, made.placement, made.compute_instances[0].uuid

    def _break_docker(self) -> None:
        verb = self.chance.choice(["run", "remove", "list"])
        self.bench.containers.fail(verb, DockerUnavailable("Docker does not answer."))

    def _break_start(self) -> None:
        self.bench.containers.fail("wait_for_ssh", ContainerFailed("sshd said nothing."))

    def _break_pipes(self) -> None:
        verb = self.chance.choice(["add", "remove", "replace"])
        self.bench.pipes.fail(verb, PipesUnavailable("The pipe file is read-only."))

    def _mend(self) -> None:
        self.faults.clear()
        for verb in ("run", "remove", "list", "wait_for_ssh"):
            self.bench.containers.fail(verb, None)
        for verb in ("add", "remove", "replace"):
            self.bench.pipes.fail(verb, None)

    _ACTS: tuple[tuple[float, Callable[["Churn"], None]], ...] = (
        (0.3, _close),
        (0.3, _extend),
        (0.1, _move_in_line),
        (0.05, _leave_the_line),
        (0.3, _reap),
        (0.1, _reconcile),
        (0.03, _end_container),
        (0.02, _lose_container),
        (0.1, _break_driver),
        (0.02, _lose_gpu),
        (0.01, _hide_gpus),
        (0.05, _hold_slice),
        (0.02, _reset_gpu),
        (0.02, _switch_mig),
        (0.03, _compute),
        (0.02, _lose_gpu_inside),
        (0.05, _list_nothing),
        (0.05, _lose_handles),
        (0.05, _time_out),
        (0.03, _finish_late),
        (0.04, _leave_remnants),
        (0.03, _another_program),
        (0.02, _break_docker),
        (0.02, _break_start),
        (0.02, _break_pipes),
        (0.15, _mend),
    )


def _identity(instance: Instance) -> tuple[object, ...]:
    return instance.gpu_uuid, instance.profile, instance.placement, instance.mig_uuid


def churn(
    directory: Path,
    cycles: int,
    seed: int,
    progress: Callable[[str], None] = lambda _: None,
    line: int = 0,
) -> Counter[str]:
    """Run it, and return how often what happened. Raises `AssertionError` where the parts do not agree."""
    template = directory / "empty.db"
    schema.upgrade(DatabaseUrl(template))
    with simulated_driver(GPUS, directory / "simulated-gpus.json") as faults:
        gpus = Gpus(directory / "locks", simulated=True, whole_gpus=True, sleep=lambda _: None)
        bench = make_bench(directory, template, gpus)
        run = Churn(bench, faults, seed, line)
        run.run(cycles, progress)
        run.heal()
        run.require_agreement()
        run.drain()
        bench.database.engine.dispose()
    return run.events


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--line", type=int, default=0, help="so many requests wait at the begin of a cycle")
    asked = parser.parse_args()
    logging.disable()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        events = churn(Path(directory), asked.cycles, asked.seed, partial(print, flush=True), asked.line)
    print(
        f"{asked.cycles} cycles with seed {asked.seed} in {time.monotonic() - begun:.0f} s: all parts agree"
    )
    for event, count in events.most_common():
        print(f"{count:8} {event}")


if __name__ == "__main__":
    main()
