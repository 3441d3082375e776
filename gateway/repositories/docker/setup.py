"""The setup of a session's container: the planned one, kept in a label, and the one that Docker reports."""

import json
import posixpath
from collections.abc import Mapping, Sequence
from typing import Any

from gateway.domain.containers import Setup
from gateway.repositories.docker import labels

_LIMITS = ("Memory", "MemorySwap", "NanoCpus", "PidsLimit")


def label(networks: Mapping[str, str], mounts: Sequence[Mapping[str, Any]], limits: Mapping[str, Any]) -> str:
    """Return the text of the label. `mounts` and `limits` are in the form of Docker's API."""
    binds = [[_path(mount["Source"]), mount["Target"], not mount["ReadOnly"]] for mount in mounts]
    kept = {name: limits[name] for name in _LIMITS if name in limits}
    return json.dumps({"networks": dict(networks), "mounts": binds, "limits": kept})


def planned(found: Mapping[str, Any]) -> Setup | None:
    """Return the setup in the label. None if it is missing, as in older versions, or damaged."""
    try:
        kept = json.loads(found["Config"]["Labels"][labels.PLANNED])
        mounts = frozenset((str(source), str(target), bool(rw)) for source, target, rw in kept["mounts"])
        return Setup(dict(kept["networks"]), mounts, dict(kept["limits"]))
    except (KeyError, TypeError, ValueError):
        return None


def shown(found: Mapping[str, Any]) -> Setup:
    """Return the setup in Docker's inspection of a running container."""
    networks = found["NetworkSettings"]["Networks"]
    mounts = frozenset((mount["Source"], mount["Destination"], mount["RW"]) for mount in found["Mounts"])
    return Setup(
        {name: endpoint["IPAddress"] for name, endpoint in networks.items()},
        mounts,
        {name: found["HostConfig"][name] for name in _LIMITS},
    )


def _path(source: str) -> str:
    """The path as Docker reports it: without dots and double slashes."""
    return posixpath.normpath(source)
