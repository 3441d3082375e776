"""Keeps the scheduler off single GPUs, by DeviceTaintRules.

A rule selects one device by its name, so a GPU with a cordon has a rule for each slice that it can have.
"""

import hashlib
from collections.abc import Callable, Collection
from contextlib import suppress

from gateway.repositories.kubernetes.api import DEVICE_TAINT_RULES, AlreadyExists, Api, Object
from gateway.repositories.kubernetes.facts import DeviceName
from gateway.repositories.kubernetes.gpus import ClusterGpus
from gateway.repositories.kubernetes.objects import DEPLOYMENT, DRIVER, GROUP, MANAGED

_GPU = f"{GROUP}/gpu"  # an annotation: the UUID of the device's GPU


class Cordons:
    """`deployment` returns the id of the database: the rules of others are left alone."""

    def __init__(self, api: Api, gpus: ClusterGpus, deployment: Callable[[], str]) -> None:
        self._api = api
        self._gpus = gpus
        self._deployment = deployment

    def set(self, gpus: Collection[str]) -> None:
        """Let exactly these GPUs, by their UUIDs, have a cordon. A GPU that is not published keeps its
        rules, because its node may be back soon, unless another GPU has its devices' names now."""
        deployment = self._deployment()
        found = self._api.list(DEVICE_TAINT_RULES, labels={**MANAGED, DEPLOYMENT: deployment})
        existing = {rule["metadata"]["name"]: rule for rule in found}
        cordoned = set(gpus)
        devices = self._gpus.inventory().devices if cordoned else {}
        rules = (
            taint_rule(name, device.gpu, deployment)
            for name, device in devices.items()
            if device.gpu in cordoned
        )
        for rule in rules:
            if rule["metadata"]["name"] not in existing:
                with suppress(AlreadyExists):  # by another replica
                    self._api.create(rule)
        for name, rule in existing.items():
            device = devices.get(_device_of(rule))
            if (device.gpu if device else _gpu_of(rule)) not in cordoned:
                self._api.delete(DEVICE_TAINT_RULES, name)


def taint_rule(name: DeviceName, gpu: str, deployment: str) -> Object:
    """Return the rule that keeps new pods off this device of the GPU with this UUID."""
    return {
        "apiVersion": DEVICE_TAINT_RULES.api_version,
        "kind": DEVICE_TAINT_RULES.name,
        "metadata": {
            "name": _name_of(name, deployment),
            "labels": {**MANAGED, DEPLOYMENT: deployment},
            "annotations": {_GPU: gpu},
        },
        "spec": {
            "deviceSelector": {"driver": DRIVER, "pool": name.pool, "device": name.device},
            "taint": {"key": f"{GROUP}/cordon", "effect": "NoSchedule"},
        },
    }


def _device_of(rule: Object) -> DeviceName:
    selector = rule["spec"]["deviceSelector"]
    return DeviceName(selector["pool"], selector["device"])


def _gpu_of(rule: Object) -> str:
    return str((rule["metadata"].get("annotations") or {}).get(_GPU, ""))


def _name_of(name: DeviceName, deployment: str) -> str:
    """The names of a pool and a device are too long together."""
    text = f"{deployment}/{name.pool}/{name.device}"
    return f"gpu-ssh-gateway-{hashlib.sha256(text.encode()).hexdigest()[:32]}"
