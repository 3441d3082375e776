"""Which ends of pods are reported, and what that costs."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from gateway.errors import KubernetesUnavailable
from gateway.repositories.kubernetes.endings import PodEndings
from gateway.repositories.kubernetes.objects import MANAGED, SESSION
from tests.fakes.kubernetes import FakeKubernetes

NAMESPACE = "gpu-sessions"


@pytest.fixture
def cluster() -> Iterator[FakeKubernetes]:
    made = FakeKubernetes()
    yield made
    made.is_down = True  # ends every watch


def add(cluster: FakeKubernetes, session_id: str, phase: str = "Running") -> None:
    cluster.put("pods", pod(session_id, phase))


def pod(session_id: str, phase: str) -> dict[str, Any]:
    labels = {**MANAGED, SESSION: session_id}
    metadata = {"name": f"s-{session_id}", "namespace": NAMESPACE, "labels": labels}
    return {"metadata": metadata, "spec": {"nodeName": "node-1"}, "status": {"phase": phase}}


def test_only_ends_from_now_on_are_reported(cluster: FakeKubernetes) -> None:
    add(cluster, "ended-before", "Failed")
    with closing(PodEndings(cluster.api, NAMESPACE)) as endings:
        add(cluster, "begins")
        add(cluster, "begins", "Succeeded")
        cluster.remove("pods", NAMESPACE, "s-ended-before")
        reported = iter(endings)
        assert [next(reported), next(reported)] == ["begins", "ended-before"]


def test_nobody_reads_all_pods(cluster: FakeKubernetes) -> None:
    for number in range(10):
        add(cluster, f"s{number}")
    with closing(PodEndings(cluster.api, NAMESPACE)) as endings:
        add(cluster, "s3", "Failed")
        assert next(iter(endings)) == "s3"
    assert cluster.requests == ["GET pods", "watch pods"]  # the first one asks for the version


def test_the_reports_end_when_the_server_has_forgotten_what_came_before(cluster: FakeKubernetes) -> None:
    endings = PodEndings(cluster.api, NAMESPACE)
    cluster.forget_versions()
    assert list(endings) == []


def test_the_reports_end_when_kubernetes_does_not_answer(cluster: FakeKubernetes) -> None:
    endings = PodEndings(cluster.api, NAMESPACE)
    cluster.is_down = True
    assert list(endings) == []
    with pytest.raises(KubernetesUnavailable):
        PodEndings(cluster.api, NAMESPACE)
