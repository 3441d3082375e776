"""Whether the sessions' containers can still open their GPUs.

A container can lose its GPU while it runs: with cgroup v2 and NVIDIA's container toolkit, `systemctl
daemon-reload` replaces the rules that let its programs open the device. Only a process inside can tell.
"""

import time
from collections.abc import Callable, Mapping
from importlib.resources import files

from gateway.errors import ContainerFailed, DockerUnavailable
from gateway.repositories.docker.client import Docker
from gateway.repositories.docker.exec import Inside

# Returns whether the container with this id can open the MIG device; None if that is unknown.
Opens = Callable[[str, str], bool | None]

_SCRIPT = (files(__package__) / "scripts" / "opens-gpu.sh").read_text()
_ANSWERS = {"opens": True, "cannot open": False}
_LOOK_SECONDS = 300.0  # between two checks of a container
_CHECKS = 16  # at once: about one second


def opens_device(docker: Docker) -> Opens:
    """Return the check of a real GPU. It runs in the container, with the rights of the user, and takes about
    60 ms. `nvidia-smi` takes a second and starts the driver's whole library."""

    def opens(container_id: str, gpu_uuid: str) -> bool | None:
        code, printed = Inside(docker).run(container_id, ["/bin/sh", "-c", _SCRIPT])
        return None if code else _ANSWERS.get(printed.strip())

    return opens


class GpuAccess:
    """Checks a few containers in each round, those first whose last check is the oldest. If one has lost its
    GPU, the same event has probably hit others, so the round goes on with all of them."""

    def __init__(self, opens: Opens, clock: Callable[[], float] = time.monotonic) -> None:
        self._opens = opens
        self._clock = clock
        self._checked: dict[str, float] = {}
        self._lost: set[str] = set()

    def lost(self, running: Mapping[str, str]) -> set[str]:
        """Return the ids of the containers that cannot open their GPU. `running` maps the id of each running
        container to its MIG device. A container that could not be checked keeps its last result."""
        self._checked = {id: at for id, at in self._checked.items() if id in running}
        self._lost &= running.keys()
        known = set(self._lost)
        for number, id in enumerate(self._due(running)):
            is_long = number >= _CHECKS and self._lost <= known
            if is_long or not self._check(id, running[id]):
                break
        return set(self._lost)

    def _due(self, running: Mapping[str, str]) -> list[str]:
        before = self._clock() - _LOOK_SECONDS
        due = [id for id in running if self._checked.get(id, before) <= before]
        return sorted(due, key=lambda id: self._checked.get(id, float("-inf")))

    def _check(self, id: str, gpu_uuid: str) -> bool:
        """Return False if Docker does not answer: each further check could take as long."""
        self._checked[id] = self._clock()
        try:
            opens = self._opens(id, gpu_uuid)
        except ContainerFailed:
            return True
        except DockerUnavailable:
            return False
        if opens is not None:
            (self._lost.discard if opens else self._lost.add)(id)
        return True
