"""What the gateway needs of the API of Kubernetes.

The API in memory passes these tests. The real one passes the same ones where KUBERNETES_TESTS names the
kubeconfig of a cluster on which the tests may make objects in the namespace `default`.
"""

import os
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import KubernetesUnavailable, StartRefused
from gateway.repositories.kubernetes import api as kubernetes_api
from gateway.repositories.kubernetes.api import DEVICE_CLAIMS, NAMESPACES, PIPES, SECRETS, AlreadyExists, Api
from tests.fakes.kubernetes import FakeKubernetes

NAMESPACE = "default"
REAL = os.environ.get("KUBERNETES_TESTS")


def fake_api() -> Api:
    fake = FakeKubernetes()
    fake.put("namespaces", {"metadata": {"name": "kube-system", "uid": "a-cluster"}})
    return fake.api


@cache
def real_api() -> Api:
    """One client for all tests: its connections stay open."""
    os.environ["KUBECONFIG"] = str(REAL)
    return kubernetes_api.connect()


@pytest.fixture(params=[fake_api, *([real_api] if REAL else [])])
def api(request: pytest.FixtureRequest) -> Api:
    make: Callable[[], Api] = request.param
    return make()


@pytest.fixture
def mark(api: Api) -> Iterator[str]:
    """A label of the test's own objects, which are removed afterwards."""
    value = f"t{uuid.uuid4().hex[:12]}"
    yield value
    for found in list(api.list(SECRETS, NAMESPACE, {"test": value})):
        api.patch(SECRETS, found["metadata"]["name"], {"metadata": {"finalizers": None}}, NAMESPACE)
        api.delete(SECRETS, found["metadata"]["name"], NAMESPACE)


def secret(mark: str, name: str = "", **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": f"{mark}{name}",
            "namespace": NAMESPACE,
            "labels": {"test": mark},
            **metadata,
        },
        "type": "Opaque",
        "data": {"motd": "aGVsbG8="},
    }


def test_what_was_created_can_be_read(api: Api, mark: str) -> None:
    created = api.create(secret(mark))
    found = api.get(SECRETS, mark, NAMESPACE)
    assert found == created
    assert found["data"] == {"motd": "aGVsbG8="}
    assert found["metadata"]["uid"]
    assert found["metadata"]["resourceVersion"]


def test_a_name_is_given_once(api: Api, mark: str) -> None:
    api.create(secret(mark))
    with pytest.raises(AlreadyExists, match="already exists"):
        api.create(secret(mark))


def test_what_does_not_exist_is_none_and_its_removal_no_error(api: Api, mark: str) -> None:
    assert api.get(SECRETS, mark, NAMESPACE) is None
    assert api.patch(SECRETS, mark, {"data": {}}, NAMESPACE) is None
    api.delete(SECRETS, mark, NAMESPACE)


def test_a_kind_without_namespaces_can_be_read(api: Api) -> None:
    found = api.get(NAMESPACES, "kube-system")
    assert found is not None
    assert found["metadata"]["uid"]


def test_a_change_is_merged_into_the_object(api: Api, mark: str) -> None:
    api.create(secret(mark))
    changed = api.patch(SECRETS, mark, {"data": {"lease": "ZW5kcw=="}}, NAMESPACE)
    assert changed is not None
    assert changed["data"] == {"motd": "aGVsbG8=", "lease": "ZW5kcw=="}
    assert api.get(SECRETS, mark, NAMESPACE) == changed


def test_lists_have_the_objects_with_the_labels_and_without_the_others(api: Api, mark: str) -> None:
    api.create(secret(mark, "-a"))
    api.create(secret(mark, "-b", labels={"test": mark, "colour": "red"}))

    def names(**selector: Any) -> list[str]:
        return sorted(found["metadata"]["name"] for found in api.list(SECRETS, NAMESPACE, **selector))

    assert names(labels={"test": mark}) == [f"{mark}-a", f"{mark}-b"]
    assert names(labels={"test": mark, "colour": "red"}) == [f"{mark}-b"]
    assert names(labels={"test": mark}, without={"colour": "red"}) == [f"{mark}-a"]
    assert names(labels={"test": "somebody-else"}) == []


def test_a_long_list_comes_in_chunks_and_is_complete(
    api: Api, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes_api, "_CHUNK", 2)
    for number in range(5):
        api.create(secret(mark, f"-{number}"))
    assert len(list(api.list(SECRETS, NAMESPACE, {"test": mark}))) == 5


def test_there_is_no_metadata_of_what_does_not_exist(api: Api, mark: str) -> None:
    assert list(api.metadata(SECRETS, NAMESPACE, {"test": mark})) == []


def test_metadata_comes_without_the_content(api: Api, mark: str) -> None:
    api.create(secret(mark))
    [found] = api.metadata(SECRETS, NAMESPACE, {"test": mark})
    assert found["metadata"]["name"] == mark
    assert "data" not in found
    [whole] = api.list(SECRETS, NAMESPACE, {"test": mark})
    assert whole["data"]


def test_an_object_with_a_finaliser_goes_when_the_finaliser_does(api: Api, mark: str) -> None:
    api.create(secret(mark, finalizers=["example.com/wait"]))
    api.delete(SECRETS, mark, NAMESPACE)
    found = api.get(SECRETS, mark, NAMESPACE)
    assert found is not None
    assert found["metadata"]["deletionTimestamp"]
    api.patch(SECRETS, mark, {"metadata": {"finalizers": None}}, NAMESPACE)
    assert api.get(SECRETS, mark, NAMESPACE) is None


def test_a_watch_begins_with_what_exists_and_reports_each_change(api: Api, mark: str) -> None:
    api.create(secret(mark))
    seen: list[tuple[str, str]] = []
    for event, found in api.watch(SECRETS, NAMESPACE, labels={"test": mark}, seconds=20):
        seen.append((event, found["metadata"]["name"]))
        if event == "ADDED":
            api.patch(SECRETS, mark, {"data": {"lease": "ZW5kcw=="}}, NAMESPACE)
        elif event == "MODIFIED":
            api.delete(SECRETS, mark, NAMESPACE)
        else:
            break
    assert seen == [("ADDED", mark), ("MODIFIED", mark), ("DELETED", mark)]


def test_a_watch_of_one_name_reports_no_other(api: Api, mark: str) -> None:
    api.create(secret(mark, "-a"))
    api.create(secret(mark, "-b"))
    watch = api.watch(SECRETS, NAMESPACE, name=f"{mark}-b", seconds=20)
    event, found = next(watch)
    assert (event, found["metadata"]["name"]) == ("ADDED", f"{mark}-b")
    watch.close()  # type: ignore[attr-defined]


def test_a_watch_after_a_snapshot_reports_only_what_came_later(api: Api, mark: str) -> None:
    api.create(secret(mark, "-a"))
    found, version = api.snapshot(SECRETS, NAMESPACE, {"test": mark})
    assert [each["metadata"]["name"] for each in found] == [f"{mark}-a"]
    api.create(secret(mark, "-b"))
    watch = api.watch(SECRETS, NAMESPACE, labels={"test": mark}, after=version, seconds=20)
    event, changed = next(watch)
    assert (event, changed["metadata"]["name"]) == ("ADDED", f"{mark}-b")
    watch.close()  # type: ignore[attr-defined]


def test_a_change_is_noticed_and_nothing_else(api: Api, mark: str) -> None:
    api.create(secret(mark, "-a"))
    version = api.version(SECRETS, NAMESPACE)
    assert not api.has_changed(SECRETS, version)
    api.create(secret(mark, "-b"))
    assert api.has_changed(SECRETS, version)
    assert list(api.watch(SECRETS, NAMESPACE, name=f"{mark}-b", seconds=1))  # such a question spoils no other


def test_a_list_has_the_objects_with_a_value_of_a_field(api: Api, mark: str) -> None:
    for name in ("-a", "-b"):
        api.create(secret(mark, name))
    found = api.list(SECRETS, NAMESPACE, {"test": mark}, fields={"metadata.name": f"{mark}-b"})
    assert [each["metadata"]["name"] for each in found] == [f"{mark}-b"]


def test_a_watch_ends_after_its_time_although_nothing_changes(api: Api, mark: str) -> None:
    assert list(api.watch(SECRETS, NAMESPACE, name=mark, seconds=1)) == []


def test_a_kind_that_the_cluster_does_not_know_is_refused_with_the_reason() -> None:
    fake = FakeKubernetes(refusals={("GET", "pipes"): "the server could not find the requested resource"})
    with pytest.raises(KubernetesUnavailable, match="refuses to read a Pipe: the server could not find"):
        fake.api.get(PIPES, "none", NAMESPACE)


def test_a_missing_right_is_named() -> None:
    fake = FakeKubernetes(refusals={("POST", "secrets"): "secrets is forbidden: User cannot create"})
    with pytest.raises(KubernetesUnavailable, match="refuses to create a Secret: secrets is forbidden"):
        fake.api.create(secret("t"))


def test_an_api_that_does_not_answer_is_unavailable_for_every_verb() -> None:
    fake = FakeKubernetes()
    api = fake.api
    fake.is_down = True
    for ask in (
        lambda: api.get(SECRETS, "a", NAMESPACE),
        lambda: list(api.list(SECRETS, NAMESPACE)),
        lambda: api.create(secret("t")),
        lambda: api.patch(SECRETS, "a", {}, NAMESPACE),
        lambda: api.delete(SECRETS, "a", NAMESPACE),
        lambda: list(api.watch(DEVICE_CLAIMS, NAMESPACE)),
        lambda: api.snapshot(SECRETS, NAMESPACE),
    ):
        with pytest.raises(KubernetesUnavailable, match="does not answer"):
            ask()


def test_a_watch_from_a_version_that_was_forgotten_ends_at_once() -> None:
    fake = FakeKubernetes()
    _, version = fake.api.snapshot(SECRETS, NAMESPACE)
    fake.forget_versions()
    assert list(fake.api.watch(SECRETS, NAMESPACE, after=version, seconds=60)) == []


def test_after_a_version_that_was_forgotten_all_may_have_changed() -> None:
    fake = FakeKubernetes()
    version = fake.api.version(SECRETS)
    fake.forget_versions()
    assert fake.api.has_changed(SECRETS, version)


def test_a_watch_whose_server_goes_away_ends() -> None:
    fake = FakeKubernetes()
    api, seen = fake.api, threading.Event()

    def follow() -> None:
        with suppress(KubernetesUnavailable):
            list(api.watch(SECRETS, NAMESPACE, seconds=60))
        seen.set()

    thread = threading.Thread(target=follow)
    thread.start()
    while "watch secrets" not in fake.requests:
        seen.wait(0.01)
    fake.is_down = True
    assert seen.wait(20)
    thread.join(20)


CONTEXT = '{"contexts": [{"name": "a", "context": {"cluster": "b", "user": "c"}}], "current-context": "a", '
AUTHORITY = '"clusters": [{"name": "b", "cluster": {"certificate-authority": "/nowhere"}}], '


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "kind: Config",
        CONTEXT + '"clusters": []}',
        CONTEXT + AUTHORITY + '"users": [{"name": "c", "user": {}}]}',
    ],
)
def test_a_kubeconfig_that_is_wrong_is_refused_in_one_line(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    with pytest.raises(StartRefused, match="KUBECONFIG") as refused:
        kubernetes_api.connect()
    assert "\n" not in str(refused.value)


def test_without_a_cluster_the_start_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "missing"))
    with pytest.raises(StartRefused, match="run this in the cluster"):
        kubernetes_api.connect()
