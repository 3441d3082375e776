"""One of several processes that want the same GPU instance.

`python -m tests.repositories.gpu_racer STATE LOCKS` reads `create` or `destroy` from each line of its input
and prints the outcome: `won`, `taken` or `gone`. STATE is the simulated driver's file, LOCKS the directory of
the gateway's locks.
"""

import sys
from pathlib import Path

from gateway import simulation
from gateway.domain.mig import Placement
from gateway.errors import PlacementTaken
from gateway.repositories.nvml.gpus import Gpus

PROFILE, PLACE = "7g.40gb", Placement(0, 8)


def main(state: Path, locks: Path) -> None:
    simulation.install("1xA100-40GB", state)
    gpus = Gpus(locks, simulated=True)
    uuid = gpus.list()[0].uuid
    print("ready", flush=True)
    for line in sys.stdin:
        print(_create(gpus, uuid) if line == "create\n" else _destroy(gpus, uuid), flush=True)


def _create(gpus: Gpus, uuid: str) -> str:
    try:
        gpus.create(uuid, PROFILE, PLACE)
    except PlacementTaken:
        return "taken"
    return "won"


def _destroy(gpus: Gpus, uuid: str) -> str:
    gpus.destroy(uuid, PROFILE, PLACE)
    return "gone"


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
