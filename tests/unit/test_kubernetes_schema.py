"""Each field of the manifests is one that Kubernetes knows: the API server drops others, and only warns."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from lightkube.resources.core_v1 import PersistentVolumeClaim, Pod, Secret
from lightkube.resources.resource_v1 import DeviceClass, ResourceClaim, ResourceSlice
from msgspec import inspect

from gateway.domain.mig import Placement, Profile
from gateway.domain.plan import SessionRequest
from gateway.domain.ssh_keys import KeyPair
from gateway.repositories.kubernetes import objects
from tests.fakes.cluster_host import SITE
from tests.fakes.devices import device_classes, slices
from tests.fakes.gpus import FakeGpus

NOW = datetime(2026, 1, 17, 8, tzinfo=UTC)
PROFILE = Profile("3g.20gb", 9, 3, 19968, 2, (Placement(0, 4), Placement(4, 4)))
REQUEST = SessionRequest(
    "0c6a",
    "ann",
    20007,
    "3g.20gb",
    NOW,
    NOW + timedelta(hours=1),
    "ssh-ed25519 A",
    KeyPair("p", "ssh-ed25519 B"),
)
ADVICE = objects.Advice("node-7", "GPU-3e9c", ("node-8",))
MADE = [
    (Pod, objects.pod(SITE, REQUEST, PROFILE, "d1", ADVICE)),
    (Secret, objects.secret(SITE, REQUEST, PROFILE, "d1")),
    (ResourceClaim, objects.device_claim(SITE, REQUEST, "3g.20gb", "d1")),
    (ResourceClaim, objects.device_claim(SITE, REQUEST, "3g.20gb", "d1", ADVICE)),
    (PersistentVolumeClaim, objects.volume_claim(SITE, REQUEST, "d1")),
    *((ResourceSlice, each) for each in slices("node-1", FakeGpus().list())),
    (DeviceClass, next(device_classes(FakeGpus().list()))),
]


@pytest.mark.parametrize(("kind", "manifest"), MADE, ids=lambda each: getattr(each, "__name__", ""))
def test_each_field_of_a_manifest_is_known(kind: type, manifest: dict[str, Any]) -> None:
    assert list(unknown(inspect.type_info(kind), manifest, kind.__name__)) == []
    msgspec.convert(manifest, kind)


def unknown(known: Any, value: Any, path: str) -> Iterator[str]:
    """The paths of fields that the type does not have."""
    if isinstance(known, inspect.UnionType):
        known = next(each for each in known.types if not isinstance(each, inspect.NoneType))
    if isinstance(known, inspect.StructType) and isinstance(value, dict):
        fields = {each.encode_name: each.type for each in known.fields} | {"apiVersion": None, "kind": None}
        for name, inner in value.items():
            if name not in fields:
                yield f"{path}.{name}"
            elif fields[name] is not None:
                yield from unknown(fields[name], inner, f"{path}.{name}")
    elif isinstance(known, inspect.ListType) and isinstance(value, list):
        for number, inner in enumerate(value):
            yield from unknown(known.item_type, inner, f"{path}[{number}]")
    elif isinstance(known, inspect.DictType) and isinstance(value, dict):
        for name, inner in value.items():
            yield from unknown(known.value_type, inner, f"{path}.{name}")
