"""Whether the places where a session exists agree, looked at from outside: without asking the gateway."""

import json
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from gateway.domain.pipe import Pipe
from gateway.domain.pipe_file import PipeFile
from gateway.repositories.docker import labels
from gateway.repositories.files.workspace_root import MARKER


@dataclass(frozen=True)
class Places:
    """What is there of any session. `rows` by session id, `containers` session id to Docker's id and state,
    `instances` by GPU's UUID and start, `pipes` session id to address, `files` and `workspaces` by name,
    `ends` session id to the end of the lease that the session's own file names. `notices` are the users who
    have one, other than that a session is open by now. `ended` are those whose session has ended and left
    keys that prove who asks. `line` are the requests that wait, by id."""

    rows: dict[str, dict[str, Any]]
    containers: dict[str, tuple[str, str]]
    instances: dict[tuple[str, int], tuple[int, list[str]]]
    pipes: dict[str, tuple[str, str]]
    files: set[str]
    workspaces: dict[str, int]
    ends: dict[str, str]
    notices: set[str]
    ended: set[str]
    line: dict[str, dict[str, Any]]


def look(directory: Path, network: str) -> Places:
    """Of the gateway over `directory`."""
    return Places(
        rows=look_at_rows(directory),
        containers=look_at_containers(network),
        instances=_instances(directory / "state/simulated-gpus.json"),
        pipes=_pipes(directory / "sshpiper/pipe.yaml"),
        files=_names(directory / "state/sessions"),
        workspaces=_workspaces(directory / "workspaces"),
        ends={path.parents[1].name: _end(path) for path in directory.glob("state/sessions/*/etc/lease")},
        notices=_notices_of_no_session(directory / "sshpiper/notices"),
        ended=_users_of_ended_sessions(directory),
        line=look_at_line(directory),
    )


def _workspaces(root: Path) -> dict[str, int]:
    """The owner of each; -1 of one that is half-made."""
    found = [path for path in root.glob("*") if path.name != MARKER]
    return {path.name: -1 if path.name.startswith(".") else path.stat().st_uid for path in found}


def problems(places: Places) -> list[str]:
    """One line for each that is not as it must be; none when all sessions are whole and nothing else is."""
    return [
        *_missing_or_left(places),
        *(f"{id}: {row['status']}" for id, row in places.rows.items() if row["status"] != "active"),
        *_broken(places),
        *_unowned(places),
        *_notices(places),
        *_promises(places),
        *(f"workspace {name} is half-made" for name, uid in places.workspaces.items() if uid < 0),
    ]


def _missing_or_left(places: Places) -> Iterator[str]:
    for what, found in (("container", places.containers), ("pipe", places.pipes), ("files", places.files)):
        yield from (f"{id}: {what} without a row" for id in set(found) - places.rows.keys())
        yield from (f"{id}: no {what}" for id in places.rows.keys() - set(found))


def _broken(places: Places) -> Iterator[str]:
    for id, row in places.rows.items():
        container = places.containers.get(id)
        if container and container != (row["container_id"], "running"):
            yield f"{id}: container {container[1]}"
        if id in places.pipes and places.pipes[id] != (row["user_id"], row["address"]):
            yield f"{id}: its pipe leads elsewhere"
        if places.ends.get(id) != f"{datetime.fromisoformat(row['expires_at']):%Y-%m-%dT%H:%M:%SZ}":
            yield f"{id}: its files name another end of the lease"
        if row["user_id"] not in places.workspaces:
            yield f"{id}: no workspace"
        found = places.instances.get((row["gpu"], row["start"]))
        if found != (row["size"], [row["gpu_uuid"]]):
            yield f"{id}: {_described(found)}"


def _described(found: tuple[int, list[str]] | None) -> str:
    if found is None:
        return "no slice"
    return "slice not as its row says" if found[1] else "slice without a compute instance"


def _unowned(places: Places) -> Iterator[str]:
    leased = {(row["gpu"], row["start"]) for row in places.rows.values()}
    for gpu, start in places.instances.keys() - leased:
        yield f"GPU instance at {start} of {gpu} without a row"


def _notices(places: Places) -> Iterator[str]:
    live = {row["user_id"] for row in places.rows.values()}
    yield from (f"{user}: a notice beside a session" for user in places.notices & live)
    yield from (f"{user}: no notice" for user in places.ended - live - places.notices)


def _promises(places: Places) -> Iterator[str]:
    """Nobody waits beside a session, and no promise begins before the slice is free."""
    live = {row["user_id"] for row in places.rows.values()}
    yield from (
        f"{row['user_id']} waits beside a session" for row in places.line.values() if row["user_id"] in live
    )
    held = [(id, row, row["expires_at"]) for id, row in places.rows.items()]
    promised = [(id, row, _promised_end(row)) for id, row in places.line.items() if row["starts_at"]]
    for index, (id, row, _) in enumerate(promised):
        for other, beside, ends in (*held, *promised[:index]):
            is_same = row["gpu"] == beside["gpu"]
            overlaps = (
                row["start"] < beside["start"] + beside["size"]
                and beside["start"] < row["start"] + row["size"]
            )
            begins = max(row["starts_at"], beside["starts_at"]) if "starts_at" in beside else row["starts_at"]
            if is_same and overlaps and begins < min(ends, _promised_end(row)):
                yield f"{id} was promised the slice of {other} at {begins}, which is not free before {ends}"


def _promised_end(request: dict[str, Any]) -> str:
    ends = datetime.fromisoformat(request["starts_at"]) + timedelta(seconds=request["lease_seconds"])
    return f"{ends:%Y-%m-%d %H:%M:%S.%f}"


def _notices_of_no_session(directory: Path) -> set[str]:
    states = {}
    for path in directory.glob("[!.]*"):
        with suppress(FileNotFoundError):
            states[path.name] = json.loads(path.read_text())["state"]
    return {user for user, state in states.items() if state != "open"}


def _users_of_ended_sessions(directory: Path) -> set[str]:
    with sqlite3.connect(directory / "state/sessions.db", timeout=10) as database:
        ended = database.execute("SELECT DISTINCT user_id FROM ended_sessions WHERE public_keys != '[]'")
        found = {user_id for (user_id,) in ended}
    database.close()
    return found


def look_at_rows(directory: Path) -> dict[str, dict[str, Any]]:
    return _rows_of(directory, "sessions")


def look_at_line(directory: Path) -> dict[str, dict[str, Any]]:
    return _rows_of(directory, "waiting")


def _rows_of(directory: Path, table: str) -> dict[str, dict[str, Any]]:
    with sqlite3.connect(directory / "state/sessions.db", timeout=10) as database:
        database.row_factory = sqlite3.Row
        found = {row["id"]: dict(row) for row in database.execute(f"SELECT * FROM {table}")}
    database.close()
    return found


def look_at_containers(network: str) -> dict[str, tuple[str, str]]:
    shown = f'{{{{.ID}}}} {{{{.State}}}} {{{{.Label "{labels.SESSION}"}}}}'
    command = ["docker", "ps", "-a", "--no-trunc", "--filter", f"label={labels.NETWORK}={network}"]
    listed = subprocess.run([*command, "--format", shown], capture_output=True, text=True, check=True)
    fields = (line.split() for line in listed.stdout.splitlines())
    return {session: (id, state) for id, state, session in fields}


def _instances(path: Path) -> dict[tuple[str, int], tuple[int, list[str]]]:
    return {
        (gpu["uuid"], one["start"]): (one["size"], [compute["uuid"] for compute in one["compute_instances"]])
        for gpu in json.loads(path.read_text())["gpus"]
        for one in gpu["instances"]
    }


def _pipes(path: Path) -> dict[str, tuple[str, str]]:
    file = PipeFile.parse(path.read_text() if path.exists() else "")
    pipes = [Pipe.of(file.entry(line)) for line in file.lines]
    return {pipe.session_id: (pipe.username, pipe.host) for pipe in pipes}


def _end(path: Path) -> str:
    facts = dict(line.partition("=")[::2] for line in path.read_text().splitlines())
    return facts.get("ends", "")


def _names(directory: Path, pattern: str = "*") -> set[str]:
    return {path.name for path in directory.glob(pattern)}
