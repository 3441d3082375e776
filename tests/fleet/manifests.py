"""The manifests of docker/kubernetes on a control plane without nodes, and the accounts that they make."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fleet.control_plane import ControlPlane
from tests.paths import REPOSITORY
from tests.whole_gateway import eventually

MANIFESTS = REPOSITORY / "docker/kubernetes"
OVERLAYS = ("sshpiper", "embedded-router", "simulated")
NAMESPACES = ("gpu-gateway", "gpu-routes", "gpu-sessions", "gpu-egress")
GATEWAY = "system:serviceaccount:gpu-gateway:gateway"
ROUTER = "system:serviceaccount:gpu-routes:router"
_SECONDS = 120  # of patience with a loaded machine


def apply(plane: ControlPlane, directory: Path) -> str:
    """Return what kubectl prints. A Job never changes, and overlays differ in that of the migration."""
    plane.kubectl("delete", "job", "migrate", "--namespace=gpu-gateway", "--ignore-not-found")
    return plane.kubectl("apply", "--server-side", "--force-conflicts", "-k", directory)


def write_overlay(directory: Path, *components: str) -> Path:
    """The overlay for the embedded router with these components, as an administrator names them."""
    directory.mkdir()
    content = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [os.path.relpath(MANIFESTS / "overlays/embedded-router", directory.resolve())],
        "components": [
            os.path.relpath(MANIFESTS / "components" / name, directory.resolve()) for name in components
        ],
    }
    (directory / "kustomization.yaml").write_text(json.dumps(content))
    return directory


@contextmanager
def applied(plane: ControlPlane, *directories: str | Path) -> Iterator[None]:
    """The manifests of these directories together. Their namespaces are gone in the end."""
    for directory in directories:
        apply(plane, MANIFESTS / directory)
    yield
    for namespace in NAMESPACES:
        plane.api().delete("v1/namespaces", namespace)
    eventually(lambda: not any(plane.api().get("v1/namespaces", each) for each in NAMESPACES), _SECONDS)
