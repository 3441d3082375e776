"""The GPUs of a cluster, as its drivers publish them."""

import builtins
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from gateway.domain.mig import Gpu, Instance
from gateway.errors import KubernetesUnavailable
from gateway.repositories.kubernetes import facts
from gateway.repositories.kubernetes.api import DEVICE_CLAIMS, DEVICE_TAINT_RULES, NODES, Api, Object
from gateway.repositories.kubernetes.facts import DeviceName, Inventory, Pool
from gateway.repositories.kubernetes.objects import MANAGED
from gateway.repositories.kubernetes.slices import ClusterSlices

_FRESH_SECONDS, _OLDEST_SECONDS = 15.0, 60.0  # a large cluster takes seconds to list
_NO_ID = -1


class ClusterGpus:
    """Keeps the last inventory. It is advice: only the scheduler allocates devices."""

    def __init__(self, api: Api, namespace: str, now: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._namespace = namespace
        self._now = now
        self._reading = threading.Lock()
        self._renewing = threading.Lock()
        self._last: tuple[float, Inventory] | None = None
        self._slices = ClusterSlices(api)
        self._around: tuple[Mapping[str, Pool], Mapping[str, str], Sequence[Object]] | None = None

    def inventory(self, is_new: bool = False) -> Inventory:
        """Return what was published, as it was known at most a minute ago, or is now. After 15 s it is read
        again beside, so that nobody waits for it. Raises `KubernetesUnavailable`."""
        if not is_new and (last := self._last):
            age = self._now() - last[0]
            if _FRESH_SECONDS < age <= _OLDEST_SECONDS:
                self._renew()
            if age <= _OLDEST_SECONDS:
                return last[1]
        asked = self._now()
        with self._reading:
            if is_new or self._last is None or self._last[0] < asked:
                self._last = self._now(), self._read()
            return self._last[1]

    def _renew(self) -> None:
        if self._renewing.acquire(blocking=False):
            threading.Thread(target=self._read_beside, name="gpus", daemon=True).start()

    def _read_beside(self) -> None:
        """After a failure the next caller tries again, and sees it once the inventory is too old."""
        try:
            with suppress(KubernetesUnavailable):
                have_changed = self._slices.have_changed()
                with self._reading:
                    self._last = self._now(), self._read(have_changed)
        finally:
            self._renewing.release()

    def _read(self, have_changed: bool = True) -> Inventory:
        """Slices that have not changed are not read. The same inventory keeps what others have made of it."""
        if have_changed:
            self._slices.read()
        around = self._slices.pools, facts.node_faults(self._api.list(NODES)), facts.closing(self._rules())
        if self._last and around == self._around:
            return self._last[1]
        self._around = around
        return facts.inventory_of(*around)

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
