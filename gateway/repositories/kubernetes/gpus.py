"""The GPUs of a cluster, as its drivers publish them."""

import builtins
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from gateway.domain.mig import Gpu, Instance
from gateway.errors import KubernetesUnavailable
from gateway.repositories.kubernetes import facts
from gateway.repositories.kubernetes.api import DEVICE_CLAIMS, DEVICE_TAINT_RULES, NODES, SLICES, Api, Object
from gateway.repositories.kubernetes.facts import DeviceName, Inventory
from gateway.repositories.kubernetes.objects import MANAGED

_FRESH_SECONDS = 15.0  # a large cluster takes seconds to list
_NO_ID = -1


class ClusterGpus:
    """Keeps the last inventory. It is advice: only the scheduler allocates devices."""

    def __init__(self, api: Api, namespace: str, now: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._namespace = namespace
        self._now = now
        self._reading = threading.Lock()
        self._last: tuple[float, Inventory] | None = None

    def inventory(self, is_new: bool = False) -> Inventory:
        """Return what was published at most 15 s ago, or now. Raises `KubernetesUnavailable`."""
        with self._reading:
            if is_new or self._last is None or self._now() - self._last[0] > _FRESH_SECONDS:
                found = facts.inventory(self._api.list(SLICES), self._api.list(NODES), self._rules())
                self._last = self._now(), found
            return self._last[1]

    def _rules(self) -> Iterable[Object]:
        """The rules of others: the gateway's own cordons are in its database. A role of an older version does
        not allow to read them."""
        try:
            return builtins.list(self._api.list(DEVICE_TAINT_RULES, without=MANAGED))
        except KubernetesUnavailable:
            return ()

    def list(self) -> list[Gpu]:
        """Return the GPUs with the slices that sessions' claims have."""
        inventory = self.inventory()
        instances: dict[str, list[Instance]] = {}
        for claim in self._api.list(DEVICE_CLAIMS, self._namespace, MANAGED):
            name = facts.allocated(claim)
            device = inventory.devices.get(name) if name else None
            if device:
                made = Instance(device.gpu, _NO_ID, device.profile, device.placement, device.mig_uuid)
                instances.setdefault(device.gpu, []).append(made)
        return [replace(gpu, instances=tuple(instances.get(gpu.uuid, ()))) for gpu in inventory.gpus]

    def device(self, name: DeviceName) -> facts.Device | None:
        """Return the device, also if it was published only now."""
        return self.inventory().devices.get(name) or self.inventory(is_new=True).devices.get(name)
