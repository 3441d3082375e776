"""A real Prometheus scrapes a gateway and its router through the life of a session."""

import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from tests import own
from tests.whole_gateway import Gateway, eventually, free_port, running

RULES = Path(__file__).parents[2] / "docker/prometheus/alerts.yml"
USER = own.user("user123")
CONFIG = """
global: {{scrape_interval: 500ms, evaluation_interval: 500ms}}
rule_files: [{rules}]
scrape_configs:
  - job_name: gpu-ssh-gateway
    authorization: {{credentials: "{token}"}}
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
  - job_name: gpu-ssh-gateway-router
    static_configs: [{{targets: ["127.0.0.1:{router_port}"]}}]
"""


@dataclass
class Prometheus:
    port: int

    def ask(self, path: str, **query: str) -> Any:
        response = requests.get(f"http://127.0.0.1:{self.port}/api/v1/{path}", params=query, timeout=10)
        return response.json()["data"]

    def value(self, query: str) -> float | None:
        result = self.ask("query", query=query)["result"]
        return float(result[0]["value"][1]) if result else None


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """With an administrator's token, which the requests of this test send, and the router's metrics."""
    gateway = Gateway(tmp_path_factory.mktemp("gateway"))
    gateway.settings["GATEWAY_ROUTER_METRICS_LISTEN"] = f"127.0.0.1:{free_port()}"
    with running(gateway):
        yield gateway


@pytest.fixture
def prometheus(gateway: Gateway, tmp_path: Path) -> Iterator[Prometheus]:
    if not shutil.which("prometheus"):
        pytest.skip("no prometheus here")
    config, port = tmp_path / "prometheus.yml", free_port()
    router_port = gateway.settings["GATEWAY_ROUTER_METRICS_LISTEN"].rpartition(":")[2]
    token = gateway.run("token", "create", "prometheus", "--role", "monitor").stdout.strip()
    config.write_text(CONFIG.format(rules=RULES, token=token, port=gateway.port, router_port=router_port))
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'data'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    with subprocess.Popen(command) as process:
        try:
            yield Prometheus(port)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)


@pytest.mark.may_be_skipped
def test_prometheus_sees_the_life_of_a_session(gateway: Gateway, prometheus: Prometheus) -> None:
    def becomes(query: str, expected: float) -> None:
        eventually(lambda: _answers(prometheus) and prometheus.value(query) == expected, seconds=60)

    admin = gateway.run("token", "create", "admin", "--role", "admin").stdout.strip()
    headers = {"Authorization": f"Bearer {admin}"}
    body = {"user_id": USER, "mig_profile": "3g.20gb"}
    session = requests.post(f"{gateway.url}/sessions", json=body, headers=headers, timeout=60).json()
    becomes('gpu_gateway_sessions{status="active",mig_profile="3g.20gb"}', 1)
    becomes(f'gpu_gateway_session_info{{user_id="{USER}",gpu="0",GPU_I_PROFILE="3g.20gb"}}', 1)
    becomes('sum(gpu_gateway_memory_slices{state="used"})', 4)
    becomes("min(gpu_gateway_part_ready)", 1)
    becomes('gpu_gateway_opens_total{result="opened"}', 1)
    becomes("gpu_gateway_router_connections", 0)
    one = f"{gateway.url}/sessions/{session['session_id']}"
    assert requests.post(f"{one}/extend", json={"minutes": 5}, headers=headers, timeout=30).ok
    becomes('gpu_gateway_extends_total{result="granted"}', 1)
    becomes('gpu_gateway_gpu_seconds_total{mig_profile="3g.20gb"} > bool 1', 1)
    assert requests.delete(one, headers=headers, timeout=60).status_code == 204
    becomes('gpu_gateway_ends_total{reason="deleted"}', 1)
    becomes('sum(gpu_gateway_memory_slices{state="used"})', 0)
    assert prometheus.value('resets(gpu_gateway_gpu_seconds_total{mig_profile="3g.20gb"}[5m])') == 0
    alerts = prometheus.ask("alerts")["alerts"]
    assert [alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"] == []
    rules = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
    assert [rule["name"] for rule in rules if rule["health"] != "ok"] == []


def _answers(prometheus: Prometheus) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{prometheus.port}/-/ready", timeout=5).ok
    except requests.ConnectionError:
        return False
