"""What the doctor reports on a cluster, and that the reaper then does what it announced."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.app import Parts
from gateway.doctor.checks import examine
from gateway.doctor.places import ON_A_CLUSTER, Comparison, Places
from gateway.domain.mig import MigPolicy
from gateway.domain.observation import Place
from gateway.domain.states import Reason
from gateway.errors import GatewayError
from tests.conftest import Bench
from tests.fakes.devices import slices
from tests.fakes.gpus import FakeGpus
from tests.on_a_cluster import OnCluster, a_cluster, put_an_older_database_back

LONG_AGO = "2026-01-01T00:00:00Z"


@pytest.fixture
def on_cluster(bench: Bench, tmp_path: Path, empty_database: Path) -> Iterator[OnCluster]:
    with a_cluster(bench, tmp_path / "cluster", empty_database) as made:
        yield made


def compare(on_cluster: OnCluster) -> Comparison:
    parts = on_cluster.parts
    return Places(
        on_cluster.database, parts.host, parts.pipes, MigPolicy.DYNAMIC, on_cluster.clock, ON_A_CLUSTER
    ).compare()


def shown(on_cluster: OnCluster) -> list[tuple[str, str, str]]:
    return [(one.place, one.what, one.then) for one in compare(on_cluster).differences]


def end_row(on_cluster: OnCluster, id: str) -> None:
    with on_cluster.database.begin() as rows:
        row = rows.live(id)
        row.close(Reason.DELETED)
        rows.end(row, row.created_at)


def remove(on_cluster: OnCluster, plural: str, name: str, namespace: str = "gpu-sessions") -> None:
    on_cluster.cluster.api.remove(plural, namespace, name)


BROKEN: list[tuple[Callable[[OnCluster, str], None], list[tuple[str, str, str]]]] = [
    (
        lambda on, id: on.cluster.lose(id),
        [("pods", "no pod", "the session is closed (failed) at the next tick")],
    ),
    (
        lambda on, id: on.cluster.end(id),
        [("pods", "its pod has ended: user_exit", "the session is closed (user_exit) at the next tick")],
    ),
    (
        lambda on, id: remove(on, "resourceclaims", f"s-{id}"),
        [
            (
                "ResourceClaims",
                "none; its slice may become somebody else's",
                "not repaired: delete the session",
            )
        ],
    ),
    (
        lambda on, id: remove(on, "secrets", f"s-{id}"),
        [("Secrets", "none; its files do not change any more", "not repaired: delete the session")],
    ),
    (
        lambda on, id: on.parts.pipes.remove(id),
        [("Pipes", "no route", "published at the next tick")],
    ),
    (
        end_row,
        [
            ("pods", "a pod without a session", "removed at the next tick"),
            ("ResourceClaims", "a claim without a session", "removed at the next tick"),
            ("Secrets", "a Secret without a session", "removed at the next tick"),
            ("Pipes", "a route without a session", "removed at the next tick"),
        ],
    ),
]


@pytest.mark.parametrize(("break_", "expected"), BROKEN)
def test_the_doctor_names_the_object_and_what_the_reaper_does_about_it(
    on_cluster: OnCluster, break_: Callable[[OnCluster, str], None], expected: list[tuple[str, str, str]]
) -> None:
    id = on_cluster.open()
    assert shown(on_cluster) == []
    break_(on_cluster, id)
    assert shown(on_cluster) == expected
    on_cluster.gateway.reaper.reconcile()
    if "not repaired" not in expected[0][2]:
        assert shown(on_cluster) == []


def test_what_an_older_database_does_not_know_is_kept_until_it_is_recovered(on_cluster: OnCluster) -> None:
    put_an_older_database_back(on_cluster, on_cluster.open())
    then = "kept: stop the gateway and run `gateway recover`"
    assert shown(on_cluster) == [
        ("pods", "a pod without a session", then),
        ("ResourceClaims", "a claim without a session", then),
        ("Secrets", "a Secret without a session", then),
        ("Pipes", "a route without a session", then),
    ]


def test_a_cluster_that_does_not_answer_is_said_and_differs_in_nothing(on_cluster: OnCluster) -> None:
    on_cluster.open()
    on_cluster.cluster.api.is_down = True
    found = compare(on_cluster)
    assert found.differences == []
    assert set(found.unseen) == {Place.KUBERNETES, Place.ROUTES}


def taint(on_cluster: OnCluster) -> None:
    """The driver finds that the GPU is out of order."""
    for found in on_cluster.cluster.api.of("resourceslices"):
        for device in found["spec"].get("devices") or ():
            device["taints"] = [{"key": "gpu.nvidia.com/xid", "value": "79", "effect": "NoExecute"}]
        on_cluster.cluster.api.put("resourceslices", found)
    on_cluster.parts.host.gpus.inventory(is_new=True)


def cordon_node(on_cluster: OnCluster, is_cordoned: bool) -> None:
    on_cluster.cluster.api.change("nodes", "", "node-1", {"spec": {"unschedulable": is_cordoned}})
    on_cluster.parts.host.gpus.inventory(is_new=True)


def test_a_session_whose_gpu_the_driver_taints_stays_and_is_marked(on_cluster: OnCluster) -> None:
    id = on_cluster.open()
    taint(on_cluster)
    problem = "Its GPU is out of order: tainted with gpu.nvidia.com/xid=79."
    assert shown(on_cluster) == [("pods", problem, "the session stays open; it is only marked")]
    on_cluster.gateway.reaper.reconcile()
    answer = on_cluster.ask("GET", f"/sessions/{id}").json
    assert (answer["status"], answer["problem"]) == ("active", problem)


def test_a_session_whose_gpu_is_not_published_is_marked_until_it_is(on_cluster: OnCluster) -> None:
    id = on_cluster.open()
    published = on_cluster.cluster.api.of("resourceslices")
    other = replace(FakeGpus(["A100-40GB"]).list()[0], uuid="GPU-of-node-9")
    for found in slices("node-9", [other]):
        on_cluster.cluster.api.put("resourceslices", found)
    for found in published:
        on_cluster.cluster.api.remove("resourceslices", "", found["metadata"]["name"])
    on_cluster.parts.host.gpus.inventory(is_new=True)
    on_cluster.gateway.reaper.reconcile()
    problem = on_cluster.ask("GET", f"/sessions/{id}").json["problem"]
    assert problem.startswith("The driver of its node does not publish GPU ")
    for found in published:
        on_cluster.cluster.api.put("resourceslices", found)
    on_cluster.parts.host.gpus.inventory(is_new=True)
    on_cluster.gateway.reaper.reconcile()
    assert on_cluster.ask("GET", f"/sessions/{id}").json["problem"] is None


def test_a_node_that_takes_no_pods_is_no_problem_of_its_sessions(on_cluster: OnCluster) -> None:
    id = on_cluster.open()
    cordon_node(on_cluster, True)
    assert shown(on_cluster) == []
    on_cluster.gateway.reaper.reconcile()
    assert on_cluster.ask("GET", f"/sessions/{id}").json["problem"] is None


def examined(on_cluster: OnCluster, name: str) -> str:
    try:
        return on_cluster.parts.host.examinations()[name]()
    except GatewayError as error:
        return str(error)


def test_a_node_that_has_promised_too_much_is_named_with_the_claims(on_cluster: OnCluster) -> None:
    id = on_cluster.open("ann", "7g.40gb")
    assert examined(on_cluster, "counters") == "ok"
    [claim] = on_cluster.cluster.api.of("resourceclaims")
    claim["metadata"] |= {"name": "s-double"}
    on_cluster.cluster.api.put("resourceclaims", claim)
    found = examined(on_cluster, "counters")
    assert "node-1 has promised more of" in found
    assert f"s-{id}, s-double" in found
    assert "the whole node gives no slice" in found


def test_what_does_not_go_and_what_is_not_published_are_named(on_cluster: OnCluster) -> None:
    id = on_cluster.open()
    assert examined(on_cluster, "removals") == "ok"
    change = {"metadata": {"deletionTimestamp": LONG_AGO}}
    on_cluster.cluster.is_stopping = False
    on_cluster.cluster.api.change("pods", "gpu-sessions", f"s-{id}", change)
    on_cluster.cluster.api.change("resourceclaims", "gpu-sessions", f"s-{id}", change)
    found = examined(on_cluster, "removals")
    assert f"The pod s-{id} should be gone since 00:00:00 UTC: its node node-1" in found
    assert f"The claim s-{id} should be gone since" in found
    on_cluster.cluster.api.change(
        "resourceclaims", "gpu-sessions", f"s-{id}", {"metadata": {"deletionTimestamp": None}}
    )
    for each in on_cluster.cluster.api.of("resourceslices"):
        on_cluster.cluster.api.remove("resourceslices", "", each["metadata"]["name"])
    assert "which is not published" in examined(on_cluster, "removals")


def test_the_checks_are_those_of_a_cluster(on_cluster: OnCluster, bench: Bench, tmp_path: Path) -> None:
    settings = replace(bench.settings, site="kubernetes", state_dir=tmp_path)
    parts = on_cluster.parts
    found = examine(
        settings, Parts(on_cluster.database, parts.host, parts.pipes, parts.notices, on_cluster.clock)
    )
    states = {check.name: check.ok for check in found}
    assert {"kubernetes", "gpus", "device-classes", "counters", "removals", "uids", "schema"} < states.keys()
    assert not {"disks", "permissions", "docker"} & states.keys()
    assert [name for name, ok in states.items() if not ok] == ["reaper"], "no gateway runs here"
