"""The slice of a session, and whether the session reaches it."""

from pathlib import Path
from shutil import copy

from gateway.app import Parts, assemble
from gateway.background.prober import Prober
from gateway.errors import ContainerFailed
from gateway.repositories.sql.database import SqlDatabase
from tests.client import ApiClient
from tests.conftest import Bench
from tests.fakes.cluster import FakeCluster
from tests.fakes.cluster_host import cluster_parts
from tests.fakes.gpus import FakeGpus
from tests.on_a_cluster import OnCluster


def test_the_gpus_have_the_slices_of_the_sessions(on_cluster: OnCluster) -> None:
    on_cluster.open("ann", "3g.20gb")
    on_cluster.open("bob", "2g.10gb")
    [gpu] = on_cluster.ask("GET", "/gpus").json["gpus"]
    assert sorted(one["profile"] for one in gpu["instances"]) == ["2g.10gb", "3g.20gb"]
    sessions = on_cluster.ask("GET", "/sessions").json["sessions"]
    assert {one["session_id"]: one["gpu_uuid"] for one in gpu["instances"]} == {
        one["session_id"]: one["gpu_uuid"] for one in sessions
    }
    assert all(one["gpu_uuid"] for one in sessions)
    profiles = {one["name"]: one for one in on_cluster.ask("GET", "/gpus/profiles").json["profiles"]}
    assert profiles["7g.40gb"]["available"] == 0


def test_readiness_names_the_classes_that_are_missing(on_cluster: OnCluster) -> None:
    def classes() -> str:
        on_cluster.clock.advance(seconds=5)
        return str(on_cluster.ask("GET", "/readyz").json["parts"]["device-classes"])

    assert classes() == "ok: 7 profiles have a DeviceClass"
    on_cluster.cluster.api.remove("deviceclasses", "", "mig-3g.20gb")
    assert "no DeviceClass mig-3g.20gb" in classes()


def test_a_simulated_device_gets_a_uuid_without_nvidia_smi(
    bench: Bench, tmp_path: Path, empty_database: Path
) -> None:
    copy(empty_database, tmp_path / "simulated.db")
    database = SqlDatabase(type(bench.settings.db)(tmp_path / "simulated.db"))
    parts = cluster_parts(database, cluster=FakeCluster(FakeGpus(["A100-40GB"]).list()))
    gateway = assemble(bench.settings, Parts(database, parts.host, parts.pipes, parts.notices, bench.clock))
    opened = ApiClient(gateway.flask).post("/sessions", json={"user_id": "ann", "mig_profile": "1g.5gb"})
    assert opened.json["gpu_uuid"].startswith("MIG-")
    with database.begin() as rows:
        rows.live(opened.json["session_id"]).gpu_uuid = None
    Prober(database, parts.host, bench.clock).ask()
    with database.read() as rows:
        assert rows.live(opened.json["session_id"]).gpu_uuid == opened.json["gpu_uuid"]
    assert "-L" not in parts.logins.commands
    database.engine.dispose()


def test_a_slice_that_the_session_does_not_see_alone_fails_it(on_cluster: OnCluster) -> None:
    on_cluster.logins.listing = "  MIG (UUID: MIG-1)\n  MIG (UUID: MIG-2)\n"
    answer = on_cluster.ask("POST", "/sessions", user_id="ann", mig_profile="1g.5gb")
    assert answer.status_code == 503
    assert "MIG-1, MIG-2" in answer.json["detail"]
    assert on_cluster.left() == {}


LOST = ContainerFailed(
    "A command in the session failed: Unable to determine the device handle for GPU0: GPU is lost."
)
PROBLEM = "The nvidia-smi of the session says that its GPU is lost."


def problem_of(on_cluster: OnCluster, id: str) -> str | None:
    on_cluster.gateway.reaper.reconcile()
    found: str | None = on_cluster.ask("GET", f"/sessions/{id}").json["problem"]
    return found


def test_a_session_that_has_lost_its_gpu_is_asked_marked_and_recovers(on_cluster: OnCluster) -> None:
    prober = Prober(on_cluster.database, on_cluster.parts.host, on_cluster.clock)
    id = on_cluster.open()
    prober.ask()
    on_cluster.logins.listing = LOST
    on_cluster.clock.advance(minutes=29)
    prober.ask()
    assert problem_of(on_cluster, id) is None
    on_cluster.clock.advance(minutes=1)
    prober.ask()
    assert problem_of(on_cluster, id) == PROBLEM
    on_cluster.parts.host.lost.clear()  # another process leads
    assert problem_of(on_cluster, id) == PROBLEM
    on_cluster.logins.listing = ContainerFailed("A command in the session failed: Cannot fork")
    on_cluster.clock.advance(minutes=30)
    prober.ask()
    assert problem_of(on_cluster, id) == PROBLEM, "no answer is no recovery"
    on_cluster.logins.listing = "GPU 0: NVIDIA A100 (UUID: GPU-3e9c)\n"
    on_cluster.clock.advance(minutes=30)
    prober.ask()
    assert problem_of(on_cluster, id) is None
    assert on_cluster.ask("GET", f"/sessions/{id}").json["status"] == "active"


def test_a_session_that_cannot_be_asked_is_not_marked(on_cluster: OnCluster) -> None:
    prober = Prober(on_cluster.database, on_cluster.parts.host, on_cluster.clock)
    id = on_cluster.open()
    prober.ask()
    on_cluster.logins.listing = ContainerFailed("A command in the session failed: Cannot fork")
    on_cluster.clock.advance(minutes=30)
    prober.ask()
    assert problem_of(on_cluster, id) is None
