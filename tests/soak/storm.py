"""Everything at once, at random: `make soak MINUTES=20 SEED=7`.

A real gateway of two workers, real Docker, sshd and router over simulated GPUs. Between quiet moments
sessions come and go, requests wait in line, processes are killed and parts fail; in a quiet moment nothing
fails any more, one tick passes, and all places must agree.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path

from gateway.errors import GatewayError
from gateway.simulation.store import Store
from tests.fakes.faults import Faults
from tests.own_docker import OwnDocker, own_docker
from tests.soak import agreement
from tests.soak.acts import ACTS, Ground
from tests.warm import Warm, own_warm
from tests.whole_gateway import Gateway, eventually, running

_AT_ONCE = 4
_PROGRESS_SECONDS = 15


class BrokenInvariantError(Exception):
    """The places do not agree; carries what was found."""


class Storm:
    def __init__(self, ground: Ground, seed: int) -> None:
        self.ground, self.seed = ground, seed
        self.compared = 0
        self._pool = ThreadPoolExecutor(_AT_ONCE)
        self._under_way: list[Future[None]] = []

    def blow(self, seconds: float, progress: Callable[[str], None] = lambda _: None) -> None:
        began = shown = time.monotonic()
        while (now := time.monotonic()) - began < seconds:
            if now - shown > _PROGRESS_SECONDS:
                shown = now
                progress(f"{(now - began) / 60:.1f} min: {self.compared} quiet moments, {self._counts()}")
            for _ in range(self.ground.chance.randint(5, 20)):
                self._act()
            self.calm()
        self.ground.delete_all()
        self.calm()

    def calm(self) -> None:
        """All faults end, a tick passes; raises `BrokenInvariantError` when the places do not agree then."""
        try:
            wait(self._under_way, timeout=120)
            for act in self._under_way:
                act.result(timeout=0)
            self._under_way.clear()
            self.ground.mend()
            eventually(lambda: not agreement.problems(self.ground.look()), seconds=20)
            self.ground.require_reachable()
        except AssertionError as error:
            raise BrokenInvariantError(self._dump(str(error))) from error
        self.compared += 1

    def summary(self) -> str:
        return f"seed {self.seed}: all places agreed in {self.compared} quiet moments\n{self._counts()}"

    def _act(self) -> None:
        names, weights = zip(*((act, weight) for act, weight in ACTS.items()), strict=True)
        act = self.ground.chance.choices(names, weights)[0]
        if act in ("create", "wait", "delete", "log_in"):
            # What the act draws by chance is drawn here: threads come to their turn in no fixed order.
            seed = self.ground.chance.random()
            self._under_way.append(self._pool.submit(self.ground.request, act, seed))
        else:
            self.ground.do(act)
        time.sleep(self.ground.chance.random() * 0.2)

    def _counts(self) -> str:
        return ", ".join(f"{count} {what}" for what, count in sorted(self.ground.events.items()))

    def _dump(self, error: str) -> str:
        dump = ["BROKEN with " + self.summary(), error]
        with suppress(GatewayError):  # a pipe file that is damaged still
            places = self.ground.look()
            rows = [{**row, "private_key": "…"} for row in places.rows.values()]
            dump += [*agreement.problems(places), str(rows), str(places.instances)]
        return "\n".join([*dump, *self.ground.gateway.log("serve").splitlines()[-60:]])


@contextmanager
def storming(directory: Path, seed: int, warm: Warm, docker: OwnDocker | None = None) -> Iterator[Storm]:
    gateway = Gateway(directory, settings={"GATEWAY_WORKERS": "2", "GATEWAY_THREADS": "8"}, warm=warm)
    with running(gateway):
        faults = Faults(Store(directory / "state/simulated-gpus.json"))
        yield Storm(Ground(gateway, faults, random.Random(seed), docker), seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with own_docker() as docker:
        docker.load(os.environ.get("GATEWAY_IMAGE", "gpu-workspace"))
        sys.exit(_blow(docker, asked.minutes, asked.seed))


def _blow(docker: OwnDocker, minutes: float, seed: int) -> int:
    try:
        with (
            tempfile.TemporaryDirectory() as directory,
            own_warm() as warm,
            storming(Path(directory), seed, warm, docker) as storm,
        ):
            storm.blow(minutes * 60, lambda line: print(line, flush=True))
            print(storm.summary())
    except BrokenInvariantError as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    main()
