"""Sessions on a cluster against kubectl and plain pods, ours and theirs by turns within one run.

    python -m tests.fleet.bench [--runs N] [--nodes N] [--live N] [--json FILE]

Opening and closing are measured on a real kubelet. Placing, the creates in a second and the memory are
measured on fake nodes of eight A100 each, with `--live` sessions, behind two replicas that are processes of
their own with the rights of the manifests. Whatever the figures are, it succeeds.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import cycle
from pathlib import Path

import requests

from gateway.domain.ssh_keys import make_pair
from tests import own
from tests.bench.ground import alone
from tests.bench.measure import Row, progress, table
from tests.bench.serving import memory_of, processes
from tests.fleet import programs
from tests.fleet.api import Api, Object
from tests.fleet.claims import CLAIMS, PODS, SECONDS
from tests.fleet.control_plane import ControlPlane, control_plane
from tests.fleet.fake_cluster import (
    MEMORY_PER_SLICE,
    Account,
    Bound,
    FakeNodesReplica,
    add_service,
    database,
    fakelet,
    replicas,
)
from tests.fleet.gateways import IMAGE, MANIFESTS, SESSIONS, Replica, apply, apply_policies, gateway_before
from tests.fleet.in_process import add_kinds
from tests.fleet.node import real_node
from tests.fleet.prefill import GPUS, PROFILE, add_nodes, add_sessions
from tests.whole_gateway import eventually

USER = own.user("bench")
_AT_ONCE = 8  # creates and ends
_AT_A_TIME = 60  # creates whose rate is measured
_KEY = make_pair().public
_A_SECOND = 5.0  # creates whose placing is measured
_PACE = (
    f"{_A_SECOND:g} POST and {_A_SECOND:g} plain pods in a second by turns, without waiting for those before"
)
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


def on_fake_nodes(runs: int, nodes: int, live: int) -> Iterator[Row]:
    """The users of the measured sessions had one before, so their homes exist."""
    with _fake_nodes(nodes, live - _AT_A_TIME) as (plane, replicas, bound):
        users = [own.user(f"b{number}") for number in range(_AT_A_TIME + runs)]
        for what, act in (("homes", _open), ("closed", _close)):
            _for_each(users, what, replicas, act)
        seconds = _for_each(users[runs:], "creates", replicas, _open)
        size = f"{nodes:,} nodes, {live:,} live"
        yield Row(
            "fleet-rate",
            f"creates in a second, two replicas, {size}",
            "",
            [_AT_A_TIME / seconds],
            unit="/s",
            goal=10,
            at_least=True,
            note=f"{_AT_A_TIME} creates until their answers, {_AT_ONCE} at once; users have homes already",
        )
        ours, theirs, answers = _by_turns(runs, users, replicas, plane.api(), bound)
        memory = max(_memory(each) for each in replicas)
    yield Row(
        "fleet-bound",
        f"POST until the pod is bound, p95, {size}",
        "",
        ours,
        goal=0.5,
        quantile=0.95,
        note=_PACE,
    )
    yield Row(
        "fleet-bound-ratio",
        "the same",
        "a plain pod of the same requests",
        ours,
        theirs,
        goal=5,
        quantile=0.95,
    )
    yield Row("fleet-answer", "POST until the answer, p95", "", answers, quantile=0.95)
    yield Row(
        "fleet-memory",
        f"memory of a replica, PSS, {live:,} sessions, {nodes * GPUS:,} GPUs",
        "",
        [memory],
        unit="MB",
        goal=400,
        note="all processes of the replica that needs more, at the end of the run",
    )


@contextmanager
def _fake_nodes(nodes: int, live: int) -> Iterator[tuple[ControlPlane, list[FakeNodesReplica], Bound]]:
    """With so many live sessions."""
    with ExitStack() as stack:
        plane = stack.enter_context(control_plane(misses_nodes=False))
        apply(plane, MANIFESTS)
        add_kinds(plane)
        add_nodes(Account.of(plane), nodes)
        at = stack.enter_context(database())
        add_sessions(Account.of(plane), at.url, add_service(plane.api()), live)
        apply_policies(plane)
        stack.enter_context(fakelet(plane))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gateway-bench-")))
        made = stack.enter_context(replicas(plane, at, directory))
        bound = Bound(plane.api())
        bound.start()
        yield plane, made, bound


def _by_turns(
    runs: int, users: Sequence[str], replicas: Sequence[FakeNodesReplica], api: Api, bound: Bound
) -> tuple[list[float], list[float], list[float]]:
    """The seconds until pods of sessions and plain pods are bound, and until the sessions' answers. None
    waits for those before it."""
    pause, start = 1 / _A_SECOND, time.monotonic()
    ours, theirs = [], []
    with ThreadPoolExecutor(4 * _AT_ONCE) as pool:
        for number, user in enumerate(users[:runs]):
            time.sleep(max(0.0, start + number * pause - time.monotonic()))
            ours.append(pool.submit(_placed, replicas[number % len(replicas)], user, bound))
            time.sleep(max(0.0, start + (number + 0.5) * pause - time.monotonic()))
            theirs.append(pool.submit(_plain, api, bound))
            progress("placed", number + 1, runs)
    until_bound, until_answer = zip(*(each.result() for each in ours), strict=True)
    return list(until_bound), [each.result() for each in theirs], list(until_answer)


def _for_each(
    users: Sequence[str],
    what: str,
    replicas: Sequence[FakeNodesReplica],
    act: Callable[[FakeNodesReplica, str], object],
) -> float:
    """Do it for some users at once, by both replicas in turn, and return the seconds."""
    start = time.monotonic()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for done, _ in enumerate(pool.map(act, cycle(replicas), users), 1):
            progress(what, done, len(users))
    return time.monotonic() - start


def _open(gateway: FakeNodesReplica, user: str) -> str:
    body = {"user_id": user, "mig_profile": PROFILE, "ssh_public_keys": [_KEY]}
    answer = requests.post(f"{gateway.url}/sessions", json=body, timeout=60)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["session_id"])


def _close(gateway: FakeNodesReplica, user: str) -> None:
    [session] = gateway.get(f"/sessions?user_id={user}")["sessions"]
    assert gateway.delete(session["session_id"]).status_code == 204


def _placed(gateway: FakeNodesReplica, user: str, bound: Bound) -> tuple[float, float]:
    start = time.monotonic()
    name = f"s-{_open(gateway, user)}"
    answered = time.monotonic() - start
    return bound.moment(name) - start, answered


def _plain(api: Api, bound: Bound) -> float:
    """A pod of the same requests without a claim; it is removed at once."""
    name = f"plain-{uuid.uuid4()}"
    resources = {"requests": {"memory": f"{4 * MEMORY_PER_SLICE}Gi"}}
    spec = {"containers": [{"name": "c", "image": "none", "resources": resources}]}
    start = time.monotonic()
    api.create(PODS, {"metadata": {"name": name, "namespace": "default"}, "spec": spec})
    seconds = bound.moment(name) - start
    api.delete(PODS, name, "default", grace=0)
    return seconds


def _memory(gateway: FakeNodesReplica) -> float:
    """PSS in MB."""
    return sum(pss for _, pss in map(memory_of, processes(gateway.processes["serve"].pid)))


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
    options.live = max(options.live, _AT_A_TIME)
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
