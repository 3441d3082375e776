"""Sessions from POST to their end, against Docker alone running the same container."""

import math
import sqlite3
import subprocess
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from gateway.domain.ssh_keys import make_pair
from gateway.repositories.docker import labels
from tests.bench.ground import AT_ONCE, NETWORK, USER, BenchGateway, DockerAlone, at_once, gateway, seconds
from tests.bench.measure import Row, progress

_FIRST_END = 3.0  # seconds from setting the leases' ends to the first of them
_BETWEEN_ENDS = 1.0
_LOOK_SECONDS = 0.01
_PATIENCE = 30.0


def create_and_delete(runs: int) -> list[Row]:
    """One container at a time, ours and theirs by turns; theirs twice, for two ways of removing it."""
    opened: list[float] = []
    ran: list[float] = []
    closed: list[float] = []
    commanded: list[float] = []
    removed: list[float] = []
    key = make_pair().public

    def our_turn() -> None:
        began = time.perf_counter()
        session_id = ours.open(USER, key)
        opened.append(time.perf_counter() - began)
        closed.append(seconds(lambda: ours.close(session_id)))

    def their_turn() -> None:
        for times in (commanded, removed):
            began = time.perf_counter()
            container_id = theirs.run(0)
            ran.append(time.perf_counter() - began)
            if times is removed:
                times.append(seconds(lambda: theirs.remove(container_id)))  # noqa: B023 (called at once)
            else:
                command = ["docker", "rm", "--force", "--volumes", container_id]
                times.append(seconds(lambda: subprocess.run(command, check=True, capture_output=True)))  # noqa: B023

    with gateway() as ours:
        theirs = DockerAlone.like(ours, key)
        _require_the_same(ours, theirs, key)
        for run in range(runs):
            for turn in (our_turn, their_turn) if run % 2 else (their_turn, our_turn):
                turn()
            progress("create and delete", run + 1, runs)
    same = "the Docker SDK running the same container up to its banner"
    return [
        Row("create", "POST → SSH-able", same, opened, ran, goal=1.15),
        Row("delete", "DELETE", "`docker rm -f` of it", closed, commanded, goal=1.2),
        Row("delete-sdk", "DELETE", "the SDK's forced removal, no command to start", closed, removed),
    ]


def create_at_once(runs: int) -> list[Row]:
    """Twenty at once, ours and theirs by turns, until the last of them lets its user in."""
    ours_took: list[float] = []
    theirs_took: list[float] = []
    ours_removed: list[float] = []
    theirs_removed: list[float] = []
    key = make_pair().public
    numbers = range(AT_ONCE)

    def our_turn() -> None:
        took, ids = at_once(lambda number: ours.open(f"{USER}-{number}", key), numbers)
        ours_took.append(took)
        ours_removed.append(at_once(ours.close, ids)[0])

    def their_turn() -> None:
        took, ids = at_once(theirs.run, numbers)
        theirs_took.append(took)
        theirs_removed.append(at_once(theirs.remove, ids)[0])

    with gateway() as ours:
        theirs = DockerAlone.like(ours, key)
        for run in range(runs):
            for turn in (our_turn, their_turn) if run % 2 else (their_turn, our_turn):
                turn()
            progress(f"{AT_ONCE} creates at once", run + 1, runs)
    return [
        Row(
            "burst",
            f"{AT_ONCE} creates at once",
            f"Docker's own {AT_ONCE} at once",
            ours_took,
            theirs_took,
            goal=1.2,
        ),
        Row(
            "burst-delete",
            f"{AT_ONCE} deletes at once",
            f"the SDK's {AT_ONCE} forced removals",
            ours_removed,
            theirs_removed,
        ),
    ]


def lease_end(runs: int) -> list[Row]:
    """From the end of a lease to the moment when route, container, slice and row are all seen gone."""
    took: list[float] = []
    key = make_pair().public
    with gateway() as ours:
        api = DockerAlone.like(ours, key).api
        while len(took) < runs:
            count = min(AT_ONCE, runs - len(took))
            _, ids = at_once(lambda number: ours.open(f"{USER}-{number}", key), range(count))
            devices = {each: str(ours.row(each)["gpu_uuid"]) for each in ids}
            ends = _set_ends(ours, ids)
            gone: dict[str, float] = {}
            while len(gone) < count:
                left = _what_is_left(ours, api)
                now = time.time()
                just = [
                    each
                    for each in ids
                    if each not in gone and each not in left and devices[each] not in left
                ]
                gone |= dict.fromkeys(just, now)
                assert now < max(ends.values()) + _PATIENCE, "leases that ended were not taken back"
                if just:
                    progress("lease end", len(took) + len(gone), runs)
                time.sleep(_LOOK_SECONDS)
            took += [gone[each] - ends[each] for each in ids]
    return [
        Row(
            "lease",
            "lease end → all four gone, p95",
            "",
            took,
            goal=2.0,
            quantile=0.95,
            note=f"{runs} leases that end {_BETWEEN_ENDS:g} s after one another",
        )
    ]


def _require_the_same(ours: BenchGateway, theirs: DockerAlone, key: str) -> None:
    session_id, container_id = ours.open(USER, key), theirs.run(0)
    difference = theirs.difference(str(ours.row(session_id)["container_id"]), container_id)
    theirs.remove(container_id)
    ours.close(session_id)
    assert not difference, f"the containers that are compared are not the same: {difference}"


def _set_ends(ours: BenchGateway, ids: Sequence[str]) -> dict[str, float]:
    """When each of the leases ends, as seconds since 1970; whole ones, as the gateway's own are."""
    first = math.ceil(time.time() + _FIRST_END)
    ends = {each: first + _BETWEEN_ENDS * number for number, each in enumerate(ids)}
    with sqlite3.connect(ours.database) as database:
        for session_id, end in ends.items():
            text = f"{datetime.fromtimestamp(end, UTC):%Y-%m-%d %H:%M:%S.%f}"
            database.execute(
                "UPDATE sessions SET boot = NULL, expires_at = ? WHERE id = ?", (text, session_id)
            )
    return ends


def _what_is_left(ours: BenchGateway, api: Any) -> str:
    """Text that names, by its id or its MIG device, every session of which anything is left."""
    with sqlite3.connect(ours.database) as database:
        rows = database.execute("SELECT id FROM sessions").fetchall()
    containers = api.containers(all=True, filters={"label": f"{labels.NETWORK}={NETWORK}"})
    slices = (ours.directory / "state/simulated-gpus.json").read_text()
    routes = (ours.directory / "sshpiper/pipe.yaml").read_text()
    return f"{rows} {[container['Labels'] for container in containers]} {slices} {routes}"
