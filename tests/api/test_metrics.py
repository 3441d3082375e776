"""/metrics: what Prometheus reads of a gateway."""

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.domain import metrics
from gateway.domain.containers import GPU_LOST, Deviation
from gateway.domain.permissions import Role
from gateway.errors import ContainerFailed, DockerUnavailable, DriverUnavailable
from gateway.services.tokens import Tokens
from tests.client import ApiClient
from tests.conftest import Bench, BenchMaker
from tests.fakes.gpus import FakeGpus

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(client: ApiClient) -> Samples:
    response = client.get("/metrics")
    assert response.status_code == 200, response.text
    assert response.content_type.startswith("text/plain; version=")
    return {
        (sample.name.removeprefix(metrics.PREFIX), tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def value(bench: Bench, name: str, **labels: str) -> float | None:
    return scrape(bench.client).get((name, tuple(sorted(labels.items()))))


def create(bench: Bench, user_id: str = "user123", **body: Any) -> str:
    response = bench.client.post("/sessions", json={"user_id": user_id, **body})
    assert response.status_code == 201, response.text
    return str(response.json["session_id"])


def test_a_session_counts_from_its_opening_to_its_end(bench: Bench) -> None:
    id = create(bench, mig_profile="3g.20gb")
    assert value(bench, "opens_total", mig_profile="3g.20gb", result="opened") == 1
    assert value(bench, "sessions", status="active", mig_profile="3g.20gb") == 1
    bench.clock.advance(minutes=10)
    assert value(bench, "gpu_seconds_total", mig_profile="3g.20gb") == 600
    bench.client.delete(f"/sessions/{id}")
    bench.clock.advance(minutes=10)
    assert value(bench, "gpu_seconds_total", mig_profile="3g.20gb") == 600
    assert value(bench, "ends_total", reason="deleted") == 1
    assert value(bench, "sessions", status="active", mig_profile="3g.20gb") is None


def test_seconds_of_live_and_ended_sessions_are_one_counter_that_never_falls(bench: Bench) -> None:
    seen = [0.0]
    for user in ("user1", "user2", "user3"):
        id = create(bench, user)
        for _ in range(3):
            bench.clock.advance(seconds=7)
            seen.append(value(bench, "gpu_seconds_total", mig_profile="1g.5gb") or 0)
        bench.client.delete(f"/sessions/{id}")
        seen.append(value(bench, "gpu_seconds_total", mig_profile="1g.5gb") or 0)
    assert seen == sorted(seen)
    assert seen[-1] == 63


def test_counters_go_on_after_a_restart(bench: Bench, bench_of: BenchMaker) -> None:
    create(bench)
    again = bench_of(bench.gpus)
    assert value(again, "opens_total", mig_profile="1g.5gb", result="opened") == 1


def test_failed_and_refused_openings_are_told_apart(bench: Bench) -> None:
    bench.containers.fail("run", ContainerFailed("The disk caught fire."))
    assert bench.client.post("/sessions", json={"user_id": "user1"}).status_code == 503
    bench.containers.fail("run", None)
    create(bench, "user2", mig_profile="7g.40gb")
    refused = {"user_id": "user3", "mig_profile": "7g.40gb"}
    assert bench.client.post("/sessions", json=refused).status_code == 503
    assert value(bench, "opens_total", mig_profile="1g.5gb", result="failed") == 1
    assert value(bench, "opens_total", mig_profile="7g.40gb", result="opened") == 1
    assert value(bench, "opens_total", mig_profile="7g.40gb", result="no_capacity") == 1
    assert value(bench, "ends_total", reason="failed") == 1


def test_requests_that_leave_the_line_are_counted_by_their_reason(bench: Bench) -> None:
    create(bench, "user1", mig_profile="7g.40gb", ttl_minutes=600)
    waits = [
        bench.client.post("/sessions", json={"user_id": user, "mig_profile": "7g.40gb", "wait_minutes": 30})
        for user in ("user2", "user3")
    ]
    bench.client.delete(f"/sessions/{waits[0].json['session_id']}")
    bench.clock.advance(minutes=30)
    bench.gateway.queue.serve()
    assert value(bench, "ends_total", reason="deleted") == 1
    assert value(bench, "ends_total", reason="gave_up") == 1
    assert value(bench, "ends_total", reason="") is None


def test_an_extension_into_a_promise_is_counted_as_refused(bench: Bench) -> None:
    id = create(bench, "user1", mig_profile="7g.40gb")
    bench.client.post("/sessions", json={"user_id": "user2", "mig_profile": "7g.40gb", "wait_minutes": 600})
    assert bench.client.post(f"/sessions/{id}/extend", json={"minutes": 60}).status_code == 409
    assert value(bench, "extends_total", result="refused") == 1


def test_extensions_retries_warnings_and_denials_are_counted(bench: Bench) -> None:
    id = create(bench)
    bench.client.post(f"/sessions/{id}/extend", json={"minutes": 5})
    bench.client.post(f"/sessions/{id}/extend", json={"minutes": 5000000})
    bench.clock.advance(minutes=58)
    bench.warn()
    bench.containers.fail("remove", DockerUnavailable("Out of reach."))
    bench.client.delete(f"/sessions/{id}")
    Tokens(bench.database, bench.clock).create("reader", Role.MONITOR)
    assert bench.client.get("/sessions").status_code == 401
    client = client_of(bench, Role.MONITOR, "second")
    found = scrape(client)
    assert found["extends_total", (("result", "granted"),)] == 1
    assert found["extends_total", (("result", "refused"),)] == 1
    assert found["warnings_total", (("delivered", "no"), ("kind", "lease"))] == 1
    assert found["closing_retries_total", ()] == 1
    assert found["denied_total", ()] == 1


def test_counters_without_labels_begin_at_zero(bench: Bench) -> None:
    assert value(bench, "denied_total") == 0
    assert value(bench, "closing_retries_total") == 0
    assert value(bench, "gpus_lost_inside_total") == 0


def test_the_gauges_have_the_labels_of_dcgm_exporter(bench: Bench) -> None:
    id = create(bench, mig_profile="3g.20gb")
    bench.gateway.gauges.measure()
    [gpu] = bench.gpus.list()
    [instance] = gpu.instances
    info = {
        "session_id": id,
        "user_id": "user123",
        "gpu": "0",
        "UUID": gpu.uuid,
        "GPU_I_ID": str(instance.gi_id),
        "GPU_I_PROFILE": "3g.20gb",
        "mig_uuid": instance.mig_uuid or "",
    }
    assert value(bench, "session_info", **info) == 1
    of_gpu = {"gpu": "0", "UUID": gpu.uuid, "modelName": gpu.name}
    states = {
        state: value(bench, "memory_slices", **of_gpu, state=state)
        for state in ("used", "free", "other", "cordoned", "faulty")
    }
    assert states == {"used": 4, "free": 4, "other": 0, "cordoned": 0, "faulty": 0}
    assert value(bench, "profile_available", mig_profile="3g.20gb") == 1
    assert value(bench, "profile_capacity", mig_profile="3g.20gb") == 2


def test_slices_of_a_cordoned_and_of_a_faulty_gpu_are_not_free(bench_of: BenchMaker) -> None:
    bench = bench_of(FakeGpus(["A100-40GB", "A100-40GB"]))
    first, second = bench.gpus.list()
    bench.client.put("/gpus/0/cordon")
    bench.gpus.set_fault(second.uuid, "it needs a reset")
    bench.gateway.gauges.measure()
    for gpu, state in ((first, "cordoned"), (second, "faulty")):
        labels = {"gpu": str(gpu.index), "UUID": gpu.uuid, "modelName": gpu.name}
        assert value(bench, "memory_slices", **labels, state=state) == 8
        assert value(bench, "memory_slices", **labels, state="free") == 0
    assert value(bench, "profile_available", mig_profile="1g.5gb") == 0


def test_a_scrape_calls_neither_the_driver_nor_docker(bench: Bench) -> None:
    create(bench)
    bench.gateway.gauges.measure()
    bench.gpus.fail("list", DriverUnavailable("The driver hangs."))
    bench.containers.fail("list", DockerUnavailable("Out of reach."))
    calls = list(bench.containers.calls)
    assert value(bench, "part_ready", part="gpus") == 1
    assert bench.containers.calls == calls


def test_a_part_that_is_not_ready_is_zero_and_the_others_are_served(bench: Bench) -> None:
    bench.gpus.fail("list", DriverUnavailable("The driver hangs."))
    bench.gateway.gauges.measure()
    assert value(bench, "part_ready", part="gpus") == 0
    assert value(bench, "part_ready", part="database") == 1


def test_an_old_reading_is_not_served(bench: Bench) -> None:
    bench.gateway.gauges.measure()
    bench.clock.advance(minutes=3)
    assert value(bench, "part_ready", part="database") == 1
    bench.clock.advance(seconds=1)
    assert value(bench, "part_ready", part="database") is None
    assert value(bench, "build_info", version="0.1.0") == 1


def test_users_are_named_in_the_seconds_only_if_the_setting_says_so(
    bench: Bench, bench_of: BenchMaker
) -> None:
    create(bench)
    bench.clock.advance(seconds=5)
    naming = bench_of(bench.gpus, metrics_users=True)
    naming.clock.now = bench.clock.now
    assert value(naming, "gpu_seconds_total", mig_profile="1g.5gb", user_id="user123") == 5
    assert value(bench, "gpu_seconds_total", mig_profile="1g.5gb") == 5


def test_the_histogram_of_openings_counts_each_one(bench: Bench) -> None:
    for user in ("user1", "user2"):
        create(bench, user)
    assert value(bench, "open_seconds_count") == 2
    assert value(bench, "open_seconds_bucket", le="0.5") == 2


def test_requests_that_wait_are_counted_and_timed(bench: Bench) -> None:
    id = create(bench, "user1", mig_profile="7g.40gb")
    waits = {"user_id": "user2", "mig_profile": "7g.40gb", "wait_minutes": 600}
    assert bench.client.post("/sessions", json=waits).status_code == 202
    assert value(bench, "waiting", mig_profile="7g.40gb") == 1
    bench.clock.advance(minutes=10)
    bench.client.delete(f"/sessions/{id}")
    for due in bench.gateway.queue.serve():
        bench.gateway.queue.open(due)
    assert value(bench, "waiting", mig_profile="7g.40gb") is None
    assert value(bench, "wait_seconds_sum") == 600
    assert value(bench, "wait_seconds_bucket", le="900") == 1
    assert value(bench, "wait_seconds_bucket", le="300") == 0


def client_of(bench: Bench, role: Role, name: str) -> ApiClient:
    client = bench.client
    secret = Tokens(bench.database, bench.clock).create(name, role)
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {secret}"
    return client


def test_a_monitor_reads_the_metrics_and_the_readiness_and_nothing_else(bench: Bench) -> None:
    id = create(bench)
    monitor = client_of(bench, Role.MONITOR, "prometheus")
    assert monitor.get("/metrics").status_code == 200
    assert "gpus" in monitor.get("/readyz").json["parts"]
    for path in ("/sessions", f"/sessions/{id}", "/events", "/gpus", "/users/user123/keys"):
        assert monitor.get(path).status_code == 403
    assert monitor.delete(f"/sessions/{id}").status_code == 403


def test_openmetrics_is_served_to_who_asks_for_it(bench: Bench) -> None:
    response = bench.client.get("/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"})
    assert response.content_type.startswith("application/openmetrics-text")
    assert response.text.endswith("# EOF\n")


@pytest.mark.parametrize("metric", metrics.METRICS, ids=lambda metric: metric.name)
def test_every_metric_has_a_name_that_prometheus_takes(metric: metrics.Metric) -> None:
    assert metric.help.endswith(".")
    assert not metric.name.endswith("_total")
    assert metric.name.replace("_", "a").isalnum()


def test_a_session_that_loses_its_gpu_is_counted_once_whatever_else_is_wrong(bench: Bench) -> None:
    id = create(bench)
    for found in ((GPU_LOST,), (GPU_LOST, Deviation("it is paused")), (Deviation("it is paused"),)):
        bench.containers.deviate(id, *found)
        bench.reconciler.reconcile()
        assert value(bench, "gpus_lost_inside_total") == 1
    assert bench.client.get(f"/sessions/{id}").json["problem"] == "It is paused."
    bench.containers.deviate(id, GPU_LOST)
    bench.reconciler.reconcile()
    assert value(bench, "gpus_lost_inside_total") == 2
    problem = bench.client.get(f"/sessions/{id}").json["problem"]
    assert problem.startswith("Its programs cannot open the GPU any more: save the work, end the session")
