"""The programs of Kubernetes, etcd and kube-router: the machine's, or built once from their Go modules.

    python -m tests.fleet.programs

builds what is missing into a cache outside the checkout. `go.mod` beside this file names the versions, and
that in `kube_router` names its own: kube-router, which enforces the network policies, uses an older client.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

NAMES = (
    "etcd",
    "kube-apiserver",
    "kube-scheduler",
    "kube-controller-manager",
    "kubectl",
    "kubelet",
    "kube-proxy",
    "kube-router",
)
_HERE = Path(__file__).parent
_PACKAGES = {name: f"k8s.io/kubernetes/cmd/{name}" for name in NAMES} | {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-router": "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router",
}
_MODULES = {"kube-router": _HERE / "kube_router"}
_OF_ANY_VERSION = ("etcd", "kubectl", "kube-router")
_OLDEST = (1, 37)  # with 1.36 the scheduler needs a second for each MIG device of 100 nodes
_VERSION = re.compile(r"k8s\.io/kubernetes v((\d+)\.(\d+)\.\S+)")


@cache
def find(name: str) -> Path | None:
    """Return the program in PATH or in KUBEBUILDER_ASSETS if it is new enough, else the built one; None if
    there is none. Any etcd, kubectl and kube-router will do."""
    directories = [*os.environ.get("PATH", "").split(os.pathsep), os.environ.get("KUBEBUILDER_ASSETS", "")]
    for found in (shutil.which(name, path=directory) for directory in directories if directory):
        if found and (name in _OF_ANY_VERSION or _is_new(found)):
            return Path(found)
    built = cache_directory() / name
    return built if built.exists() else None


def missing() -> list[str]:
    return [name for name in NAMES if find(name) is None]


def cache_directory() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "gpu-ssh-gateway" / f"kubernetes-{_version()}"


def _version() -> str:
    return _version_match()[1]


def _version_match() -> "re.Match[str]":
    found = _VERSION.search((_HERE / "go.mod").read_text())
    assert found, "go.mod does not require k8s.io/kubernetes"
    return found


def _is_new(program: str) -> bool:
    done = subprocess.run([program, "--version"], capture_output=True, text=True)
    found = re.search(r"v(\d+)\.(\d+)\.", done.stdout)
    return found is not None and (int(found[1]), int(found[2])) >= _OLDEST


def _build(name: str) -> None:
    """Under a name of its own until it is whole: somebody may end this program."""
    _, major, minor = _version_match().groups()
    values = {"gitVersion": f"v{_version()}", "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    flags = [f"-X k8s.io/component-base/version.{key}={value}" for key, value in values.items()]
    part = cache_directory() / f"{name}.{os.getpid()}"
    command = ["go", "build", "-trimpath", "-ldflags", " ".join(["-s -w", *flags]), "-o", str(part)]
    environment = {"GOTOOLCHAIN": "auto", **os.environ, "CGO_ENABLED": "0"}  # an older Go fetches a newer one
    directory = _MODULES.get(name, _HERE)
    subprocess.run([*command, _PACKAGES[name]], check=True, cwd=directory, env=environment)
    part.rename(cache_directory() / name)


def main() -> None:
    wanted = missing()
    if wanted and shutil.which("go") is None:
        sys.exit("No go here: run `docker/install-host fleet`, or put Kubernetes 1.37 and etcd into PATH.")
    cache_directory().mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(wanted, 1):
        print(f"building {name}, {number} of {len(wanted)} …", end=" ", flush=True)
        start = time.monotonic()
        try:
            _build(name)
        except subprocess.CalledProcessError:
            sys.exit(f"\n{name} could not be built; go's message is above.")
        print(f"{time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
