"""Cordons of single GPUs, as rules for the scheduler."""

from datetime import timedelta
from pathlib import Path

from gateway.cli.slice_map import draw
from tests.api.on_a_cluster.conftest import on_nodes
from tests.conftest import Bench
from tests.fakes.devices import slices
from tests.fakes.gpus import FakeGpus
from tests.on_a_cluster import OnCluster


def test_a_cordon_keeps_the_scheduler_off_one_gpu(bench: Bench, tmp_path: Path, empty_database: Path) -> None:
    """Also where the gateway gives no advice, or advice that does not hold any more."""
    two = on_nodes(bench, tmp_path, empty_database, 1, 2)
    object.__setattr__(two.parts.host, "gives_advice", False)
    gpus = two.ask("GET", "/gpus").json["gpus"]
    for gpu in gpus[:2]:
        assert two.ask("PUT", f"/gpus/{gpu['label']}/cordon", reason="a fan").status_code == 204
    two.open("ann", "1g.5gb")
    with two.database.read() as rows:
        assert [row.gpu for row in rows.list()] == [gpus[2]["uuid"]]
    assert two.ask("DELETE", f"/gpus/{gpus[0]['uuid']}/cordon").status_code == 204
    tainted = {rule["spec"]["deviceSelector"]["pool"] for rule in two.cluster.api.of("devicetaintrules")}
    assert tainted == {gpus[1]["node"]}
    assert two.ask("DELETE", f"/gpus/{gpus[1]['label'].replace('/', '%2F')}/cordon").status_code == 204
    assert two.cluster.api.names("devicetaintrules") == []
    two.database.engine.dispose()


def test_a_cordon_is_made_good_once_kubernetes_answers_and_begins_at_its_time(on_cluster: OnCluster) -> None:
    on_cluster.ask("GET", "/gpus")
    on_cluster.cluster.api.refusals["POST", "devicetaintrules"] = "not now"
    assert on_cluster.ask("PUT", "/gpus/node-1/0/cordon", reason="a fan").status_code == 204
    answer = on_cluster.ask("POST", "/sessions", user_id="ann", mig_profile="1g.5gb")
    assert answer.json["type"] == "/problems/no-capacity"
    on_cluster.cluster.api.refusals.clear()
    on_cluster.gateway.reaper.reconcile()
    rules = on_cluster.cluster.api.names("devicetaintrules")
    assert rules
    on_cluster.gateway.reaper.reconcile()
    assert on_cluster.cluster.api.names("devicetaintrules") == rules
    begin = on_cluster.clock.now + timedelta(hours=1)
    on_cluster.ask("PUT", "/gpus/node-1/0/cordon", **{"from": begin.isoformat()})
    assert on_cluster.cluster.api.names("devicetaintrules") == []
    on_cluster.clock.advance(minutes=61)
    on_cluster.gateway.reaper.reconcile()
    assert on_cluster.cluster.api.names("devicetaintrules") == rules


def test_a_rule_of_an_administrator_is_known_before_the_scheduler_is_asked(on_cluster: OnCluster) -> None:
    taint = {"key": "example.org/repair", "effect": "NoSchedule"}
    spec = {"deviceSelector": {"pool": "node-1"}, "taint": taint}
    on_cluster.cluster.api.put("devicetaintrules", {"metadata": {"name": "repair"}, "spec": spec})
    answer = on_cluster.ask("POST", "/sessions", user_id="ann", mig_profile="1g.5gb")
    assert (answer.status_code, answer.json["type"]) == (503, "/problems/no-capacity")
    assert "tainted by the DeviceTaintRule repair" in answer.json["detail"]
    assert "POST pods" not in on_cluster.cluster.api.requests


def test_a_role_that_may_not_read_rules_opens_sessions_all_the_same(on_cluster: OnCluster) -> None:
    on_cluster.cluster.api.refusals["GET", "devicetaintrules"] = "devicetaintrules is forbidden"
    on_cluster.open()


def test_a_gpu_whose_node_is_away_keeps_its_cordon(on_cluster: OnCluster) -> None:
    on_cluster.ask("PUT", "/gpus/node-1/0/cordon", reason="a fan")
    rules = on_cluster.cluster.api.names("devicetaintrules")
    for found in on_cluster.cluster.api.of("resourceslices"):
        on_cluster.cluster.api.remove("resourceslices", "", found["metadata"]["name"])
    on_cluster.parts.host.gpus.inventory(is_new=True)
    on_cluster.gateway.reaper.reconcile()
    assert on_cluster.cluster.api.names("devicetaintrules") == rules


def test_the_rules_of_a_gpu_that_was_replaced_close_no_other_one(on_cluster: OnCluster) -> None:
    on_cluster.ask("PUT", "/gpus/node-1/0/cordon", reason="a fan")
    for found in slices("node-1", FakeGpus(["A100-40GB"]).list()):
        on_cluster.cluster.api.put("resourceslices", found)
    on_cluster.parts.host.gpus.inventory(is_new=True)
    on_cluster.gateway.reaper.reconcile()
    assert on_cluster.cluster.api.names("devicetaintrules") == []
    assert on_cluster.ask("GET", "/gpus").json["gpus"][0]["cordoned"] is False


def test_a_cordon_hits_the_gpu_that_it_names_when_a_node_has_come(
    bench: Bench, tmp_path: Path, empty_database: Path
) -> None:
    two = on_nodes(bench, tmp_path, empty_database, 1, 2)
    api, wanted = two.cluster.api, two.ask("GET", "/gpus").json["gpus"][1]
    api.put("nodes", {**api.of("nodes")[0], "metadata": {"name": "node-0"}})
    for found in slices("node-0", FakeGpus(["A100-40GB"]).list()):
        api.put("resourceslices", found)
    two.parts.host.gpus.inventory(is_new=True)
    answer = two.ask("PUT", f"/gpus/{wanted['index']}/cordon")
    assert (answer.status_code, answer.json["type"]) == (422, "/problems/invalid-request")
    assert "node-0/0" in answer.json["detail"]
    assert two.ask("PUT", f"/gpus/{wanted['label']}/cordon").status_code == 204
    cordoned = [gpu for gpu in two.ask("GET", "/gpus").json["gpus"] if gpu["cordoned"]]
    assert [(gpu["uuid"], gpu["index"]) for gpu in cordoned] == [(wanted["uuid"], wanted["index"] + 1)]
    two.database.engine.dispose()


def test_a_gpu_names_its_node(bench: Bench, tmp_path: Path, empty_database: Path) -> None:
    two = on_nodes(bench, tmp_path, empty_database, 1, 2)
    gpus = two.ask("GET", "/gpus").json["gpus"]
    assert [gpu["node"] for gpu in gpus] == ["node-1", "node-2", "node-2"]
    assert two.ask("GET", "/gpus?node=node-2").json["gpus"] == gpus[1:]
    assert two.ask("GET", "/gpus?node=node-2&limit=1").json["gpus"] == gpus[1:2]
    assert two.ask("GET", "/gpus?node=node-9").json["gpus"] == []
    assert [gpu["label"] for gpu in gpus] == ["node-1/0", "node-2/0", "node-2/1"]
    assert "GPU node-2/0 " in draw(gpus, two.clock.now)
    page = two.gateway.flask.test_client().get("/ui/", headers={"Host": "localhost"})
    assert "GPU node-2/0 " in page.text
    two.database.engine.dispose()
