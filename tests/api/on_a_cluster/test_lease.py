"""`lease` in a session on a cluster: the script of the session's Secret, over HTTP, to the real API."""

import subprocess
import sys
import threading
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Any

import pytest
from werkzeug.serving import make_server

from gateway.app import Gateway, Parts, assemble
from gateway.domain import session_token
from gateway.domain.permissions import Role
from gateway.repositories.sql.database import SqlDatabase
from gateway.services.tokens import Tokens
from tests.client import ApiClient
from tests.conftest import Bench, beside
from tests.fakes.cluster_host import ClusterParts, cluster_parts


@dataclass
class Cluster:
    gateway: Gateway
    parts: ClusterParts
    database: SqlDatabase
    directory: Path

    def open(self, user_id: str = "ann") -> str:
        """Open a session, and write the files of its Secret, as its kubelet does."""
        body = {"user_id": user_id, "mig_profile": "1g.5gb", "ttl_minutes": 60}
        answer = ApiClient(self.gateway.flask).post("/sessions", json=body, headers=self.headers)
        assert answer.status_code == 201, answer.json
        id = str(answer.json["session_id"])
        [found] = [each for each in self.parts.cluster.api.of("secrets") if "etc_lease" in each["data"]]
        for key, value in found["data"].items():
            (self.directory / key.removeprefix("etc_")).write_bytes(b64decode(value))
        return id

    def lease(self, *arguments: str, path: str | None = None) -> "subprocess.CompletedProcess[str]":
        """Run the session's own script, with its files in place of /etc/gateway."""
        script = (self.directory / "bin_lease").read_text().replace("/etc/gateway", str(self.directory))
        return subprocess.run(
            ["/bin/sh", "-c", script, "lease", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={"PATH": path} if path else None,
        )

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.admin}"}

    admin: str = ""


@pytest.fixture
def cluster(bench: Bench, tmp_path: Path, empty_database: Path) -> Iterator[Cluster]:
    settings, database = beside(bench, tmp_path / "cluster", empty_database)
    parts = cluster_parts(database)
    made = assemble(settings, Parts(database, parts.host, parts.pipes, parts.notices, bench.clock))
    admin = Tokens(database, bench.clock).create("admin", Role.ADMIN)
    server = make_server("127.0.0.1", 0, made.flask, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    service = {"clusterIP": "127.0.0.1", "ports": [{"port": server.port}]}
    metadata = {"name": "gateway", "namespace": "gpu-gateway"}
    parts.cluster.api.put("services", {"metadata": metadata, "spec": service})
    (tmp_path / "etc").mkdir()
    yield Cluster(made, parts, database, tmp_path / "etc", admin)
    server.shutdown()
    database.engine.dispose()


def only(directory: Path, *programs: str) -> str:
    """A PATH with these programs alone."""
    directory.mkdir()
    for name in programs:
        found = sys.executable if name == "python3" else which(name)
        (directory / name).write_text(f'#!/bin/sh\nexec {found} "$@"\n')
        (directory / name).chmod(0o755)
    return str(directory)


@pytest.mark.parametrize("program", ["curl", "python3"])
def test_lease_shows_extends_and_ends_the_session(cluster: Cluster, tmp_path: Path, program: str) -> None:
    id = cluster.open()
    path = only(tmp_path / "bin", program, "sleep")
    shown = cluster.lease(path=path)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "1g.5gb" in shown.stdout
    extended = cluster.lease("extend", "30m", path=path)
    assert extended.returncode == 0, extended.stderr
    ended = cluster.lease("end", "--yes", path=path)
    assert ended.returncode == 0, ended.stderr
    assert cluster.parts.cluster.api.names("pods") == []
    with cluster.database.read() as rows:
        actors = {event.what: event.actor for event in rows.events(session_id=id)}
    assert actors["extended"] == actors["closing"] == "ann (in session)"


def test_the_token_ends_with_the_session(cluster: Cluster) -> None:
    cluster.open()
    assert cluster.lease("end", "--yes").returncode == 0
    refused = cluster.lease()
    assert refused.returncode == 1
    assert "token" in refused.stderr
    assert "{" not in refused.stderr


def test_without_the_service_a_session_opens_and_lease_says_that_nobody_answers(cluster: Cluster) -> None:
    cluster.parts.cluster.api.remove("services", "gpu-gateway", "gateway")
    cluster.open()
    assert cluster.lease().returncode == 75


def ask(cluster: Cluster, token: str, method: str, path: str) -> Any:
    headers = {"Authorization": f"Bearer {token}"}
    return ApiClient(cluster.gateway.flask).open(path, method=method, headers=headers)


def test_a_session_may_do_with_its_token_what_it_may_on_one_server(cluster: Cluster) -> None:
    id = cluster.open()
    token = (cluster.directory / "door").read_text().splitlines()[1]
    assert ask(cluster, token, "GET", f"/sessions/{id}").status_code == 200
    for method, path in (("POST", "/sessions"), ("GET", "/events"), ("GET", "/gpus")):
        assert ask(cluster, token, method, path).status_code == 403, path
    assert ask(cluster, token, "GET", "/sessions/another").status_code == 404


def test_a_token_of_another_session_or_of_nobody_is_refused(cluster: Cluster) -> None:
    id = cluster.open()
    token = (cluster.directory / "door").read_text().splitlines()[1]
    mac = token.partition(".")[2]
    with cluster.database.read() as rows:
        host_key = rows.live(id).host_key
    for wrong in (
        token[:-1],
        f"session-another.{mac}",
        f"session-{id}.",
        "session-",
        f"session-{id}.é",
        session_token.make(id, host_key),
    ):
        assert ask(cluster, wrong, "GET", f"/sessions/{id}").status_code == 401, wrong


def test_a_session_that_asks_without_pause_is_slowed_down(cluster: Cluster) -> None:
    id = cluster.open()
    token = (cluster.directory / "door").read_text().splitlines()[1]
    codes = {ask(cluster, token, "GET", f"/sessions/{id}").status_code for _ in range(61)}
    assert codes == {200, 429}
