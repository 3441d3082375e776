"""The Grafana board and the alert rules name only metrics that are served, and Prometheus takes the rules."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.router.metrics import Counts
from tests.conftest import Bench

ROOT = Path(__file__).parents[2]
BOARD, RULES = ROOT / "docker/grafana/gpu-ssh-gateway.json", ROOT / "docker/prometheus/alerts.yml"
_OURS = re.compile(r"\bgpu_gateway_[a-z_]+")
_NAME_OF_DCGM_EXPORTER = (  # modelName is so in its metrics
    "gpu_gateway_memory_slices label names should be written in 'snake_case' not 'camelCase'"
)
_SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


def served(exposition: str) -> set[str]:
    return {
        family.name + suffix
        for family in text_string_to_metric_families(exposition)
        for suffix in _SUFFIXES[family.type]
    }


@pytest.mark.parametrize("file", [BOARD, RULES], ids=lambda path: path.name)
def test_every_name_in_the_file_is_served(bench: Bench, file: Path) -> None:
    named = set(_OURS.findall(file.read_text()))
    known = served(bench.client.get("/metrics").text) | served(Counts().exposition(0).decode())
    assert len(named) > 5
    assert named - known == set()


@pytest.mark.parametrize("page", ["docs/metrics.md"])
def test_the_documentation_names_every_metric_and_no_other(bench: Bench, page: str) -> None:
    named = set(re.findall(r"^\| `(gpu_gateway_[a-z_]+)`", (ROOT / page).read_text(), re.MULTILINE))
    exposition = bench.client.get("/metrics").text + Counts().exposition(0).decode()
    names = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in text_string_to_metric_families(exposition)
    }
    assert named == names


def test_each_panel_of_the_board_has_a_title_and_a_query() -> None:
    board = json.loads(BOARD.read_text())
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in board["panels"]:
        assert panel["title"]
        assert all(target["expr"] for target in panel["targets"])


def promtool(*arguments: str, stdin: str | None = None, status: int = 0) -> str:
    if not shutil.which("promtool"):
        pytest.skip("no promtool here")
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, input=stdin)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.may_be_skipped
def test_prometheus_takes_the_rules() -> None:
    assert "12 rules found" in promtool("check", "rules", str(RULES))


@pytest.mark.may_be_skipped
def test_prometheus_takes_every_query_of_the_board(tmp_path: Path) -> None:
    targets = [target for panel in json.loads(BOARD.read_text())["panels"] for target in panel["targets"]]
    rules = [{"record": f"query{number}", "expr": each["expr"]} for number, each in enumerate(targets)]
    (tmp_path / "queries.yml").write_text(json.dumps({"groups": [{"name": "board", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", str(tmp_path / "queries.yml"))


@pytest.mark.may_be_skipped
def test_prometheus_has_only_a_name_of_dcgm_exporter_to_complain_of(bench: Bench) -> None:
    bench.client.post("/sessions", json={"user_id": "user123"})
    bench.gateway.gauges.measure()
    complaints = promtool("check", "metrics", stdin=bench.client.get("/metrics").text, status=3)
    assert set(complaints.splitlines()) == {_NAME_OF_DCGM_EXPORTER}
    assert promtool("check", "metrics", stdin=Counts().exposition(3).decode()) == ""
