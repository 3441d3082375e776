"""Where the scheduler puts sessions, with advice and without."""

from pathlib import Path
from typing import Any

import pytest

from tests.api.on_a_cluster.conftest import on_nodes
from tests.conftest import Bench
from tests.on_a_cluster import OnCluster


def advised(pod: Any) -> tuple[list[str], list[str]]:
    """The nodes that a pod may go to, and those that it prefers."""
    affinity = pod["spec"]["affinity"]["nodeAffinity"]
    terms = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    preferred = affinity.get("preferredDuringSchedulingIgnoredDuringExecution") or []
    return (
        [name for term in terms for field in term["matchFields"] for name in field["values"]],
        [
            name
            for each in preferred
            for field in each["preference"]["matchFields"]
            for name in field["values"]
        ],
    )


def test_sessions_go_where_the_planner_would_put_them(
    bench: Bench, tmp_path: Path, empty_database: Path
) -> None:
    """It keeps whole GPUs free: small slices share one, also if the scheduler would begin elsewhere."""
    two = on_nodes(bench, tmp_path, empty_database, 1, 2)
    for number in range(7):
        two.open(f"user{number}", "1g.5gb")
    with two.database.read() as rows:
        assert len({row.gpu for row in rows.list()}) == 1
    pod = two.cluster.api.of("pods")[0]
    nodes, preferred = advised(pod)
    assert sorted(nodes) == ["node-1", "node-2"]
    assert preferred == [pod["spec"]["nodeName"]] == nodes[:1]
    two.database.engine.dispose()


def take(on_cluster: OnCluster, *nodes: str) -> None:
    """Others' claims hold these nodes' first GPUs, which the gateway cannot see."""
    for node in nodes:
        claim = {
            "metadata": {"name": f"others-{node}", "namespace": "gpu-sessions"},
            "status": {"allocation": {"devices": {"results": [{"pool": node, "device": "gpu-0"}]}}},
        }
        on_cluster.cluster.api.put("resourceclaims", claim)


@pytest.mark.parametrize("taken", [0, 1, 2])
def test_advice_names_three_nodes_and_one_of_them_takes_the_session(
    bench: Bench, tmp_path: Path, empty_database: Path, taken: int
) -> None:
    four = on_nodes(bench, tmp_path, empty_database, 1, 1, 1, 1)
    names = ["node-1", "node-2", "node-3"]
    take(four, *names[:taken])
    four.open("bob", "7g.40gb")
    assert four.cluster.api.requests.count("POST pods") == 1
    [pod] = four.cluster.api.of("pods")
    assert advised(pod) == (names, names[:1])
    assert pod["spec"]["nodeName"] == names[taken]
    four.database.engine.dispose()


def test_advice_that_does_not_hold_any_more_costs_one_more_attempt(
    bench: Bench, tmp_path: Path, empty_database: Path
) -> None:
    four = on_nodes(bench, tmp_path, empty_database, 1, 1, 1, 1)
    take(four, "node-1", "node-2", "node-3")
    id = four.open("bob", "7g.40gb")
    assert four.cluster.api.requests.count("POST pods") == 2
    [pod] = four.cluster.api.of("pods")
    assert pod["spec"]["nodeName"] == "node-4"
    assert "affinity" not in pod["spec"]
    four.ask("DELETE", f"/sessions/{id}")
    take(four, "node-4")
    answer = four.ask("POST", "/sessions", user_id="eve", mig_profile="7g.40gb")
    assert (answer.status_code, answer.json["type"]) == (503, "/problems/no-capacity")
    assert four.cluster.api.requests.count("POST pods") == 4
    four.database.engine.dispose()


def test_without_advice_the_scheduler_places_alone(on_cluster: OnCluster) -> None:
    object.__setattr__(on_cluster.parts.host, "gives_advice", False)
    on_cluster.open()
    [claim] = on_cluster.cluster.api.of("resourceclaims")
    [pod] = on_cluster.cluster.api.of("pods")
    assert "exactly" in claim["spec"]["devices"]["requests"][0]
    assert "affinity" not in pod["spec"]
