"""Nodes and live sessions by the thousand, written as the drivers, the scheduler and the gateway leave them.

Some processes write at once: a cluster takes them faster than one process makes them. Homes are left out:
without storage, the controller manager looks for some for each of them every 15 seconds.
"""

import multiprocessing
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial

from gateway.database_url import DatabaseUrl
from gateway.domain import clock, session_token, ssh_keys
from gateway.domain.lease import LeaseLimit
from gateway.domain.mig import Gpu
from gateway.domain.models import Session
from gateway.domain.plan import Allocation, SessionPlan, SessionRequest, Started
from gateway.domain.session_board import session_board
from gateway.domain.states import KeysFrom
from gateway.domain.words import Words
from gateway.repositories.kubernetes import objects
from gateway.repositories.kubernetes.objects import Advice, Door, name_of
from gateway.repositories.sql.database import SqlDatabase
from gateway.settings import Settings
from tests.bench.measure import progress
from tests.fakes.cluster_host import SITE
from tests.fakes.devices import DRIVER, device_name
from tests.fleet.api import Api, Object
from tests.fleet.claims import CLAIMS, PODS
from tests.fleet.fake_cluster import POD_ADDRESSES, Account
from tests.fleet.gateways import IMAGE, PIPES
from tests.fleet.node import image_of
from tests.fleet.nodes import add_node, gpus_of_a_node, run

GPUS = 8  # of a node
PROFILE = "3g.20gb"
_STARTS = (0, 4)  # of this profile on an A100
_WRITERS = 3
_NODES_AT_ONCE, _SESSIONS_AT_ONCE = 5, 50
_FIRST_UID = 20000
_LEASE = timedelta(hours=12)
_SITE = replace(SITE, image=image_of(IMAGE))


def add_nodes(account: Account, count: int) -> None:
    _in_parallel(partial(_add_nodes, account), "nodes", count, _NODES_AT_ONCE)


def add_sessions(account: Account, url: str, door: str, count: int) -> None:
    """Fill node after node. `url` is the database's, `door` where sessions call the gateway."""
    _in_parallel(partial(_add_sessions, account, url, door), "sessions", count, _SESSIONS_AT_ONCE)


def _in_parallel(act: Callable[[range], int], what: str, count: int, at_once: int) -> None:
    parts = [range(start, min(start + at_once, count)) for start in range(0, count, at_once)]
    done = 0
    with multiprocessing.get_context("spawn").Pool(_WRITERS) as pool:
        for written in pool.imap_unordered(act, parts):
            done += written
            progress(what, done, count)


def _add_nodes(account: Account, numbers: range) -> int:
    api = account.api()
    for number in numbers:
        add_node(api, _node(number), _gpus(number))
    return len(numbers)


def _node(number: int) -> str:
    return f"fake-{number}"


def _gpus(node: int) -> list[Gpu]:
    gpus = gpus_of_a_node(["A100-40GB"] * GPUS)
    return [replace(gpu, uuid=f"GPU-{node}-{gpu.index}", node=_node(node)) for gpu in gpus]


@dataclass(frozen=True)
class _Live:
    """A session: its row, its objects in the order in which they are made, and where it is."""

    row: Session
    uid: int
    objects: Sequence[tuple[str, Object]]
    node: str
    device: str


def _add_sessions(account: Account, url: str, door: str, numbers: range) -> int:
    api, database = account.api(), SqlDatabase(DatabaseUrl(url))
    with database.read() as rows:
        deployment = rows.deployment_id()
    made = [_live(number, deployment, door) for number in numbers]
    with database.begin() as rows:
        for each in made:
            rows.assign_uid(each.row.user_id, each.uid)
            rows.add(each.row)
    database.engine.dispose()
    for each in made:
        _write(api, each)
    return len(made)


def _live(number: int, deployment: str, door: str) -> _Live:
    gpu, start = _gpus(number // (GPUS * len(_STARTS)))[number // len(_STARTS) % GPUS], _STARTS[number % 2]
    profile = next(each for each in gpu.profiles if each.name == PROFILE)
    placement = next(each for each in profile.placements if each.start == start)
    now, user = clock.shared(), ssh_keys.make_pair()
    router, sshd = ssh_keys.make_pair(), ssh_keys.make_pair()
    begins = now.wall.replace(microsecond=0)
    request = SessionRequest(
        session_id=str(uuid.uuid4()),
        user_id=f"live-{number}",
        uid=_FIRST_UID + number,
        mig_profile=PROFILE,
        created_at=begins,
        expires_at=begins + _LEASE,
        router_key=router.public,
        host_key=sshd,
    )
    plan = SessionPlan(request, PROFILE, gpu)
    row = Session.planned(
        plan,
        image="default",
        public_keys=[user.public],
        keys_from=KeysFrom.MADE,
        private_key=router.private,
        now=now,
    )
    mig_uuid = f"MIG-{uuid.uuid5(uuid.NAMESPACE_OID, request.session_id)}"
    address = str(POD_ADDRESSES.network_address + 1 + number)
    name = name_of(request.session_id)
    row.activate(
        Started(name, address, Allocation(gpu.uuid, PROFILE, placement, mig_uuid=mig_uuid)), now.wall
    )
    advice = Advice(str(gpu.node), gpu.uuid)
    secret = objects.secret(
        _SITE,
        request,
        profile,
        deployment,
        Door(door, session_token.make(request.session_id, router.private)),
        session_board(row, LeaseLimit(timedelta(minutes=Settings().max_lease_minutes)), Words(), {}),
    )
    claim = objects.device_claim(_SITE, request, PROFILE, deployment, advice)
    claim["metadata"]["finalizers"] = ["resource.kubernetes.io/delete-protection"]
    pod = objects.pod(_SITE, request, profile, deployment, advice)
    pod["spec"]["nodeName"] = gpu.node
    assert row.pipe
    key, pipe = objects.pipe(_SITE, row.pipe, deployment)
    made = [
        ("v1/secrets", secret),
        (CLAIMS, claim),
        (PODS, pod),
        ("v1/secrets", key),
        (PIPES, pipe),
    ]
    return _Live(row, request.uid, made, str(gpu.node), device_name(gpu, profile, placement))


def _write(api: Api, live: _Live) -> None:
    name = name_of(live.row.id)
    for collection, manifest in live.objects:
        made = api.create(collection, manifest)
        if collection == PODS:
            pod = made
    result = {"request": "gpu/advised", "driver": DRIVER, "pool": live.node, "device": live.device}
    is_there = {"key": "metadata.name", "operator": "In", "values": [live.node]}
    allocation = {
        "devices": {"results": [result]},
        "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [is_there]}]},
    }
    consumer = {"resource": "pods", "name": name, "uid": pod["metadata"]["uid"]}
    status = {"allocation": allocation, "reservedFor": [consumer]}
    api.change(CLAIMS, f"{name}/status", {"status": status}, _SITE.sessions)
    run(api, pod, str(live.row.address))
