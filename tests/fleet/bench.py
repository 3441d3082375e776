"""Sessions on a cluster against kubectl and plain pods, ours and theirs by turns within one run.

    python -m tests.fleet.bench [--runs N] [--nodes N] [--live N] [--json FILE]

Opening and closing are measured on a real kubelet. Placing and the creates in a second are measured on fake
nodes of eight A100 each, with `--live` sessions. Whatever the figures are, it succeeds.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path
from typing import Any

from gateway.app import Gateway
from gateway.database_url import DatabaseUrl
from gateway.repositories.sql import schema
from tests import own
from tests.bench.ground import alone
from tests.bench.measure import Row, progress, table
from tests.client import ApiClient
from tests.fakes.cluster_host import SITE
from tests.fleet import programs
from tests.fleet.api import Api, Object
from tests.fleet.claims import CLAIMS, PODS, SECONDS
from tests.fleet.cluster import gateway_before
from tests.fleet.control_plane import ControlPlane, control_plane
from tests.fleet.gateways import IMAGE, SESSIONS, Replica
from tests.fleet.in_process import add_kinds, add_namespaces, gateway_on
from tests.fleet.node import real_node
from tests.fleet.nodes import Fakelet, add_device_classes, add_node, gpus_of_a_node
from tests.postgresql import PostgresServer
from tests.whole_gateway import eventually

USER = own.user("bench")
PROFILE = "3g.20gb"
_GPUS = 8  # of a node
_AT_ONCE = 8  # creates and ends
_MEASURED_AT_ONCE = 60
_A_SECOND = 5.0  # creates that are measured
_LABEL = "gpu-ssh-gateway.io/session"


def on_a_real_node(runs: int) -> Iterator[Row]:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gateway-bench-")))
        node = stack.enter_context(real_node(IMAGE))
        gateway = stack.enter_context(gateway_before(node, directory))
        made = gateway.create(USER, mig_profile=PROFILE)
        objects = _objects_of(gateway.plane.api(), made["session_id"])
        gateway.delete(made["session_id"])
        ours: list[tuple[float, float]] = []
        theirs: list[tuple[float, float]] = []
        for run in range(runs):
            # A kubelet looks at its containers once a second: the ends fall on all parts of that second.
            pause = run / runs
            ours.append(_by_gateway(gateway, pause))
            theirs.append(_by_kubectl(gateway.plane, objects, directory, pause))
            progress("real kubelet", run + 1, runs)
    opened, closed = zip(*ours, strict=True)
    applied, deleted = zip(*theirs, strict=True)
    yield Row(
        "fleet-open", "POST until ssh gets in", "kubectl apply of the pod, Ready", opened, applied, goal=1.3
    )
    yield Row(
        "fleet-close",
        "DELETE until the slice is free",
        "kubectl delete of the pod",
        closed,
        deleted,
        goal=1.2,
    )


def _by_gateway(gateway: Replica, pause: float) -> tuple[float, float]:
    """Return the seconds until the answer and the route are there, and until the claim is gone."""
    routes, start = gateway.directory / "sshpiper/pipe.yaml", time.monotonic()
    session_id = gateway.create(USER, mig_profile=PROFILE)["session_id"]
    eventually(lambda: session_id in routes.read_text(), SECONDS)
    opened = time.monotonic() - start
    time.sleep(pause)
    start = time.monotonic()
    gateway.delete(session_id)
    _await_free(gateway.plane.api(), f"s-{session_id}")
    closed = time.monotonic() - start
    eventually(lambda: not gateway.leftovers(session_id), SECONDS)
    return opened, closed


def _by_kubectl(
    plane: ControlPlane, objects: Sequence[Object], directory: Path, pause: float
) -> tuple[float, float]:
    """The same objects under another name."""
    name = f"s-{uuid.uuid4()}"
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    file = directory / "objects.json"
    file.write_text(text.replace(objects[0]["metadata"]["name"], name))
    there = ("--namespace", SESSIONS)
    start = time.monotonic()
    plane.kubectl("apply", *there, "--filename", file)
    plane.kubectl("wait", *there, "--for=condition=Ready", "--timeout=120s", f"pod/{name}")
    opened = time.monotonic() - start
    time.sleep(pause)
    start = time.monotonic()
    plane.kubectl("delete", *there, "pod", name)
    plane.kubectl("delete", *there, "resourceclaim", name)
    _await_free(plane.api(), name)
    closed = time.monotonic() - start
    plane.kubectl("delete", *there, "secret", name)
    return opened, closed


def _await_free(api: Api, name: str) -> None:
    eventually(lambda: api.get(CLAIMS, name, SESSIONS) is None, SECONDS)


def _objects_of(api: Api, session_id: str) -> list[Object]:
    """The Secret, the claim and the pod of a session, as they were before the cluster took them."""
    objects = []
    for collection, kind in (("v1/secrets", "Secret"), (CLAIMS, "ResourceClaim"), (PODS, "Pod")):
        found = api.get(collection, f"s-{session_id}", SESSIONS)
        assert found, f"the session has no {kind}"
        kept = {name: found["metadata"][name] for name in ("name", "namespace", "annotations")}
        made = {name: part for name, part in found.items() if name in ("spec", "data", "type")}
        # Not those of a session: the reconciler would remove what has no row.
        labels = {"gpu-ssh-gateway.io/uid": found["metadata"]["labels"]["gpu-ssh-gateway.io/uid"]}
        version = collection.rpartition("/")[0]
        objects.append({"apiVersion": version, "kind": kind, "metadata": {**kept, "labels": labels}, **made})
    objects[-1]["spec"].pop("nodeName")
    return objects


@dataclass
class Bound:
    """When each pod got its node, by its name, on the clock of this process."""

    api: Api
    at: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow)

    def __enter__(self) -> "Bound":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._over.is_set():
            for _, pod in self.api.watch(PODS, 2):
                if pod["spec"].get("nodeName"):
                    self.at.setdefault(pod["metadata"]["name"], time.monotonic())
                if self._over.is_set():
                    return


def on_fake_nodes(runs: int, nodes: int, live: int) -> Iterator[Row]:
    with ExitStack() as stack:
        plane = stack.enter_context(control_plane())
        api, gpus = plane.api(), gpus_of_a_node(["A100-40GB"] * _GPUS)
        add_kinds(api)
        add_device_classes(api, gpus)
        add_namespaces(api, SITE)
        for number in range(nodes):
            own_gpus = [replace(gpu, uuid=f"GPU-{number}-{gpu.index}") for gpu in gpus]
            add_node(api, f"fake-{number}", own_gpus)
            progress("nodes", number + 1, nodes)
        stack.enter_context(Fakelet(plane.api()))
        replicas = [stack.enter_context(replica) for replica in _replicas(plane, stack)]
        bound = stack.enter_context(Bound(plane.api()))
        size = f"{nodes} nodes, {live} live"
        users = [f"b{number}" for number in range(live + runs)]
        _for_each(users, "homes", replicas, _open)
        again = users[: _MEASURED_AT_ONCE + runs]
        _for_each(again, "closed", replicas, _close)
        seconds = _for_each(again[runs:], "creates", replicas, _open)
        rate = len(again[runs:]) / seconds
        yield Row(
            "fleet-rate",
            f"creates in a second, two replicas, {size}",
            "",
            [rate],
            unit="/s",
            goal=10,
            at_least=True,
            note="users have homes already, eight creates at once",
        )
        ours, theirs = [], []
        for number in range(runs):
            due = time.monotonic() + 1 / _A_SECOND
            ours.append(_placed(replicas[number % 2], f"b{number}", bound))
            theirs.append(_plain(api, bound))
            progress("placed", number + 1, runs)
            time.sleep(max(0.0, due - time.monotonic()))
    yield Row("fleet-bound", f"create until bound, p95, {size}", "", ours, unit="s", goal=0.5, quantile=0.95)
    yield Row(
        "fleet-bound-ratio", "create until bound, p95", "plain pod", ours, theirs, goal=5, quantile=0.95
    )


def _replicas(plane: ControlPlane, stack: ExitStack) -> list[Any]:
    os.environ["KUBECONFIG"] = str(plane.kubeconfig)
    postgresql = PostgresServer()
    stack.callback(postgresql.end)
    url = DatabaseUrl(postgresql.create())
    schema.upgrade(url)
    made = []
    for _ in range(2):
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        made.append(_gateway_on(url, directory))
    return made


@contextmanager
def _gateway_on(url: DatabaseUrl, directory: Path) -> Iterator[Gateway]:
    with gateway_on(url, SITE, directory) as made:
        yield made[0]


def _for_each(
    users: Sequence[str], what: str, replicas: Sequence[Gateway], act: Callable[[Gateway, str], object]
) -> float:
    """Do it for some users at once, by both replicas in turn, and return the seconds."""
    start = time.monotonic()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for done, _ in enumerate(pool.map(act, cycle(replicas), users), 1):
            progress(what, done, len(users))
    return time.monotonic() - start


def _open(gateway: Gateway, user: str) -> str:
    body = {"user_id": user, "mig_profile": PROFILE}
    answer = ApiClient(gateway.flask).post("/sessions", json=body)
    assert answer.status_code == 201, answer.json
    return str(answer.json["session_id"])


def _close(gateway: Gateway, user: str) -> None:
    client = ApiClient(gateway.flask)
    [session] = client.get(f"/sessions?user_id={user}").json["sessions"]
    assert client.delete(f"/sessions/{session['session_id']}").status_code == 204


def _placed(gateway: Gateway, user: str, bound: Bound) -> float:
    start = time.monotonic()
    name = f"s-{_open(gateway, user)}"
    eventually(lambda: name in bound.at, SECONDS)
    return bound.at[name] - start


def _plain(api: Api, bound: Bound) -> float:
    """A pod of the same requests without a claim; it is removed at once."""
    name = f"plain-{uuid.uuid4()}"
    resources = {"requests": {"memory": f"{4 * SITE.memory}"}}
    spec = {"containers": [{"name": "c", "image": "none", "resources": resources}]}
    start = time.monotonic()
    api.create(PODS, {"metadata": {"name": name, "namespace": "default"}, "spec": spec})
    eventually(lambda: name in bound.at, SECONDS)
    api.delete(PODS, name, "default", grace=0)
    return bound.at[name] - start


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fleet.bench", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--runs", type=int, default=20, help="repetitions of each (default 20)")
    parser.add_argument("--nodes", type=int, default=50, help="fake nodes of eight GPUs (default 50)")
    parser.add_argument(
        "--live", type=int, default=200, help="live sessions on them (default 200, at least 60)"
    )
    parser.add_argument("--json", type=Path, default=Path("build/bench-fleet.json"), metavar="FILE")
    options = parser.parse_args()
    options.live = max(options.live, _MEASURED_AT_ONCE)
    if missing := programs.missing():
        sys.exit(f"no {', '.join(missing)} here: python -m tests.fleet.programs builds them")
    with alone():
        rows = [*on_a_real_node(options.runs), *on_fake_nodes(options.runs, options.nodes, options.live)]
    print(table(rows), flush=True)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    facts = {
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "nodes": options.nodes,
        "live": options.live,
    }
    options.json.write_text(json.dumps({**facts, "rows": [row.as_json() for row in rows]}, indent=1) + "\n")
    print(f"\nAll figures: {options.json}", flush=True)


if __name__ == "__main__":
    main()
