"""Pods with a ResourceClaim, as a session has them, and what became of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.fleet.api import Api, Object
from tests.whole_gateway import eventually

CLAIMS = "resource.k8s.io/v1/resourceclaims"
PODS = "v1/pods"
SECONDS = 60  # of patience: the machine may be loaded


def ask_for(api: Api, name: str, profile: str, namespace: str = "default", **spec: Any) -> None:
    """A pod with a claim for one device of the profile."""
    wanted = {"deviceClassName": f"mig-{profile.replace('+', '-')}"}
    claim = {"devices": {"requests": [{"name": "gpu", "exactly": wanted}]}}
    metadata = {"name": name, "namespace": namespace}
    api.create(CLAIMS, {"metadata": metadata, "spec": claim})
    container = {"name": "session", "image": "none", "resources": {"claims": [{"name": "gpu"}]}}
    described = {
        "containers": [container],
        "resourceClaims": [{"name": "gpu", "resourceClaimName": name}],
        "terminationGracePeriodSeconds": 1,
        **spec,
    }
    api.create(PODS, {"metadata": metadata, "spec": described})


def device_of(api: Api, name: str, namespace: str = "default") -> str:
    """Return the device that the scheduler has given to the claim, once it has."""
    return str(eventually(lambda: _devices(api.get(CLAIMS, name, namespace)), SECONDS)[0])


def refusal_of(api: Api, name: str, namespace: str = "default") -> str:
    """Return why no node takes the pod, once the scheduler has said so."""
    return str(eventually(lambda: _refusal(api.get(PODS, name, namespace)), SECONDS))


def is_running(api: Api, name: str, namespace: str = "default") -> bool:
    pod = api.get(PODS, name, namespace) or {}
    return bool((pod.get("status") or {}).get("phase") == "Running")


@contextmanager
def removed_afterwards(api: Api, *names: str, namespace: str = "default") -> Iterator[None]:
    """The pods and claims of these names, in the order in which a session is removed."""
    try:
        yield
    finally:
        for name in names:
            api.delete(PODS, name, namespace, grace=1)
        for name in names:
            eventually(lambda name=name: api.get(PODS, name, namespace) is None, SECONDS)  # type: ignore[misc]
            api.delete(CLAIMS, name, namespace)
        for name in names:
            eventually(lambda name=name: api.get(CLAIMS, name, namespace) is None, SECONDS)  # type: ignore[misc]


def _devices(claim: Object | None) -> list[str]:
    allocation = ((claim or {}).get("status") or {}).get("allocation") or {}
    return [each["device"] for each in (allocation.get("devices") or {}).get("results") or ()]


def _refusal(pod: Object | None) -> str:
    conditions = ((pod or {}).get("status") or {}).get("conditions") or ()
    found = (each for each in conditions if each["type"] == "PodScheduled" and each["status"] == "False")
    return next((str(each["message"]) for each in found if each["reason"] == "Unschedulable"), "")
