import json
import re
from datetime import datetime
from typing import Any

import pytest

from gateway.domain import ssh_keys
from gateway.domain.mig import Placement
from gateway.errors import (
    ContainerFailed,
    DiskFull,
    DockerUnavailable,
    DriverUnavailable,
    NetworkUnavailable,
    PipesUnavailable,
)
from tests.client import Answer
from tests.conftest import NOTHING, Bench, BenchMaker
from tests.fakes.gpus import FakeGpus


def create(bench: Bench, user_id: str = "user123", **body: Any) -> Answer:
    return bench.client.post("/sessions", json={"user_id": user_id, **body})


def test_a_session_has_every_field_that_was_promised(bench: Bench, public_key: str) -> None:
    response = create(bench, ttl_minutes=60, mig_profile="3g.20gb", ssh_public_keys=[public_key])
    assert response.status_code == 201
    session = response.json
    assert response.headers["Location"].endswith(f"/sessions/{session['session_id']}")
    assert session["ssh_user"] == session["user_id"] == "user123"
    assert (session["ssh_host"], session["ssh_port"]) == ("ssh.gw", 22)
    assert session["ssh_command"] == "ssh user123@ssh.gw"
    assert session["mig_profile"] == "3g.20gb"
    assert session["status"] == "active"
    assert session["gpu_uuid"].startswith("MIG-")
    assert re.fullmatch(r"[0-9a-f]{64}", session["container_id"])
    assert session["created_at"] == f"{bench.clock.now:%Y-%m-%dT%H:%M:%SZ}"
    bench.clock.advance(minutes=60)
    assert session["expires_at"] == f"{bench.clock.now:%Y-%m-%dT%H:%M:%SZ}"
    assert "ssh_private_key" not in session


def test_the_default_is_a_lease_of_60_minutes_on_the_smallest_profile(bench: Bench) -> None:
    session = create(bench).json
    assert session["mig_profile"] == "1g.5gb"
    bench.clock.advance(minutes=60)
    assert session["expires_at"] == f"{bench.clock.now:%Y-%m-%dT%H:%M:%SZ}"


def test_a_session_has_an_allocation_a_container_files_and_a_route(bench: Bench, public_key: str) -> None:
    session = create(bench, mig_profile="2g.10gb", ssh_public_keys=[public_key]).json
    [instance] = bench.gpus.list()[0].instances
    assert (instance.profile, instance.mig_uuid) == ("2g.10gb", session["gpu_uuid"])
    spec = bench.containers.spec(session["session_id"])
    [pipe] = bench.pipes.list()
    assert (pipe.username, pipe.host) == ("user123", spec.address)
    assert pipe.public_keys == (" ".join(public_key.split()[:2]),)
    assert pipe.host_key.split()[1] not in (spec.files / "etc/authorized_keys").read_text()
    assert "3g" not in (spec.files / "etc/motd").read_text()
    assert session["gpu_uuid"] in (spec.files / "etc/sshd_config").read_text()


def test_without_keys_a_pair_is_made_and_its_private_half_returned_once(bench: Bench) -> None:
    session = create(bench).json
    private = session["ssh_private_key"]
    assert "OPENSSH PRIVATE KEY" in private
    assert "ssh_private_key" not in bench.client.get(f"/sessions/{session['session_id']}").json
    with bench.database.read() as rows:
        row = rows.get(session["session_id"])
    assert row is not None
    assert private not in (row.private_key, row.host_key)


def test_the_stored_keys_open_a_session_whose_request_has_none(bench: Bench, public_key: str) -> None:
    key = " ".join(public_key.split()[:2])
    with bench.database.begin() as rows:
        rows.user("user123").public_keys = [key]
    assert "ssh_private_key" not in create(bench).json
    assert bench.pipes.list()[0].public_keys == (key,)


def test_a_user_keeps_the_uid_of_the_first_session(bench: Bench) -> None:
    first = create(bench).json
    uid = bench.containers.spec(first["session_id"]).request.uid
    bench.client.delete(f"/sessions/{first['session_id']}")
    other = create(bench, "other").json
    again = create(bench).json
    assert bench.containers.spec(again["session_id"]).request.uid == uid
    assert bench.containers.spec(other["session_id"]).request.uid != uid


def test_a_second_session_of_a_user_is_refused_with_the_id_of_the_first(bench: Bench) -> None:
    first = create(bench).json
    response = create(bench)
    assert response.status_code == 409
    assert response.json["session_id"] == first["session_id"]
    assert len(bench.sessions.list()) == 1


@pytest.mark.parametrize(
    "user_id",
    [
        "",
        "_ops",
        ".hidden",
        "..",
        "-x",
        "kim@uni.example",
        "a:b",
        "ROOT",
        "a" * 33,
        "a b",
        "a/../b",
        "a\n",
        "ü",
        "root",
        "sshd",
        "nobody",
        "www-data",
        None,
        7,
        [],
        {},
    ],
)
def test_a_user_id_outside_the_pattern_or_reserved_is_refused(bench: Bench, user_id: object) -> None:
    response = bench.client.post("/sessions", json={"user_id": user_id})
    assert response.status_code == 422
    assert list(response.json["errors"]) == ["user_id"]
    assert bench.leftovers() == NOTHING


@pytest.mark.parametrize("user_id", ["john.doe", "20241234", "Kim", "0", "a..b", "x" * 32, "a_-.b", "Z-"])
def test_a_user_id_may_be_a_name_of_a_directory_service(bench: Bench, user_id: str) -> None:
    session = create(bench, user_id)
    assert (session.status_code, session.json["ssh_user"]) == (201, user_id)
    [pipe] = bench.pipes.list()
    spec = bench.containers.spec(session.json["session_id"])
    assert (pipe.username, spec.workspace.name) == (user_id, user_id)
    assert f"\n{user_id}:x:" in (spec.files / "passwd").read_text()
    assert f"AllowUsers {user_id}\n" in (spec.files / "etc/sshd_config").read_text()
    assert bench.client.get(f"/users/{user_id}/keys").status_code == 200


def test_users_whose_ids_differ_in_case_alone_are_different_users(bench: Bench) -> None:
    lower, upper = create(bench, "kim").json, create(bench, "Kim").json
    specs = [bench.containers.spec(session["session_id"]) for session in (lower, upper)]
    assert len({spec.request.uid for spec in specs}) == len({spec.workspace for spec in specs}) == 2
    assert sorted(pipe.username for pipe in bench.pipes.list()) == ["Kim", "kim"]


def test_a_refused_user_id_is_explained(bench: Bench) -> None:
    [message] = create(bench, "_ops").json["errors"]["user_id"]
    assert "because Docker names the user's container after it" in message


@pytest.mark.parametrize(
    "ttl", [0, -1, 10**9, "60", 1.5, 60.0, True, None, [], float("nan"), float("inf"), 10**30]
)
def test_a_ttl_that_is_not_a_valid_number_of_minutes_is_refused(bench: Bench, ttl: object) -> None:
    response = create(bench, ttl_minutes=ttl)
    assert response.status_code == 422
    assert list(response.json["errors"]) == ["ttl_minutes"]
    assert bench.leftovers() == NOTHING


def test_an_unknown_profile_is_refused_with_the_available_ones(bench: Bench) -> None:
    response = create(bench, mig_profile="3g.40gb")
    assert response.status_code == 422
    assert response.json["type"] == "/problems/unknown-profile"
    assert "3g.20gb" in response.json["available_profiles"]
    assert bench.leftovers() == NOTHING


def test_an_unknown_field_is_refused_by_name(bench: Bench) -> None:
    assert list(create(bench, ttl_minuts=5).json["errors"]) == ["ttl_minuts"]


def test_each_invalid_key_is_refused_by_its_position(bench: Bench, public_key: str) -> None:
    response = create(bench, ssh_public_keys=[public_key, "nonsense", ssh_keys.make_pair().private])
    assert response.status_code == 422
    assert [message[:5] for message in response.json["errors"]["ssh_public_keys"]] == ["Key 2", "Key 3"]
    assert bench.leftovers() == NOTHING


@pytest.mark.parametrize("wrong", [[], ["k"] * 100, "ssh-ed25519 AAAA", [None], [["k"]]])
def test_keys_of_a_wrong_number_or_type_are_refused(bench: Bench, wrong: object) -> None:
    response = create(bench, ssh_public_keys=wrong)
    assert response.status_code == 422
    assert list(response.json["errors"]) == ["ssh_public_keys"]


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"{", "application/json", 400),
        (b"", "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b"user_id=user123", "application/x-www-form-urlencoded", 415),
        (b"[]", "application/json", 422),
        (b"null", "application/json", 422),
        (b'"user123"', "application/json", 422),
        (b" " * 600_000, "application/json", 413),
    ],
)
def test_a_body_that_is_not_a_json_object_is_refused(
    bench: Bench, body: bytes, content_type: str, status: int
) -> None:
    response = bench.client.post("/sessions", data=body, content_type=content_type)
    assert response.status_code == status
    assert response.content_type == "application/problem+json"
    problem = json.loads(response.data)
    assert problem["status"] == status
    assert problem["detail"]


def test_without_free_capacity_the_response_says_when_there_will_be_some(bench: Bench) -> None:
    create(bench, "a", mig_profile="4g.20gb", ttl_minutes=90)
    create(bench, "b", mig_profile="3g.20gb", ttl_minutes=30)
    response = create(bench, "c", mig_profile="2g.10gb")
    assert response.status_code == 503
    assert response.json["type"] == "/problems/no-capacity"
    bench.clock.advance(minutes=30)
    assert response.json["retry_at"] == f"{bench.clock.now:%Y-%m-%dT%H:%M:%SZ}"
    assert 29 * 60 < int(response.headers["Retry-After"]) <= 30 * 60
    assert len(bench.sessions.list()) == 2


@pytest.mark.parametrize("verb", ["run", "wait_for_ssh", "check_gpu"])
@pytest.mark.parametrize(
    ("error", "status"), [(DockerUnavailable("x"), 503), (ContainerFailed("x"), 503), (DiskFull("x"), 507)]
)
def test_a_container_that_cannot_be_started_leaves_nothing_behind(
    bench: Bench, verb: str, error: Exception, status: int
) -> None:
    bench.containers.fail(verb, error)
    response = create(bench)
    assert response.status_code == status
    assert bench.leftovers() == NOTHING
    bench.containers.fail(verb, None)
    assert create(bench).status_code == 201


def test_no_session_is_opened_into_a_network_that_is_open(bench: Bench) -> None:
    bench.network.failure = NetworkUnavailable("The Docker network 'worknet' reaches the outside.")
    response = create(bench)
    assert (response.status_code, response.json["detail"]) == (503, str(bench.network.failure))
    assert "run" not in bench.containers.calls
    assert bench.leftovers() == NOTHING
    bench.network.failure = None
    assert create(bench).status_code == 201


def test_a_gpu_instance_that_cannot_be_created_leaves_nothing_behind(bench: Bench) -> None:
    bench.gpus.fail("create", DriverUnavailable("no"))
    assert create(bench).json["type"] == "/problems/driver-unavailable"
    assert bench.leftovers() == NOTHING


def test_a_user_whom_a_hand_written_pipe_routes_gets_no_session(bench: Bench) -> None:
    bench.pipes._handwritten.add("user123")
    response = create(bench)
    assert (response.status_code, response.json["type"]) == (409, "/problems/user-routed")
    assert "routes user123 elsewhere" in response.json["detail"]
    assert bench.leftovers() == NOTHING


def test_a_route_that_cannot_be_published_leaves_nothing_behind(bench: Bench) -> None:
    bench.pipes.fail("add", PipesUnavailable("no"))
    assert create(bench).json["type"] == "/problems/pipes-unavailable"
    assert bench.leftovers() == NOTHING


def test_a_foreign_instance_at_the_chosen_placement_is_not_destroyed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = bench.gpus.list()
    foreign = bench.gpus.create(snapshot[0].uuid, "7g.40gb", Placement(0, 8))
    with monkeypatch.context() as stale:
        stale.setattr(bench.gpus, "list", lambda: snapshot)
        response = create(bench)
    assert response.json["type"] == "/problems/placement-taken"
    assert bench.gpus.list()[0].instances == (foreign,)
    assert bench.sessions.list() == []


def test_a_failed_undo_leaves_the_session_closing_and_is_completed_later(bench: Bench) -> None:
    bench.containers.fail("wait_for_ssh", ContainerFailed("no"))
    bench.containers.fail("remove", DockerUnavailable("no"))
    assert create(bench).status_code == 503
    [session] = bench.sessions.list()
    assert (session.status, session.end_reason) == ("closing", "failed")
    assert bench.instances() == ["1g.5gb"]
    bench.containers.fail("remove", None)
    bench.reconciler.reconcile()
    assert bench.leftovers() == NOTHING


def test_a_symbolic_link_in_place_of_a_workspace_is_refused(bench: Bench) -> None:
    bench.settings.workspace_root.mkdir()
    (bench.settings.workspace_root / "user123").symlink_to("/etc")
    response = create(bench)
    assert response.json["type"] == "/problems/workspace-refused"
    assert bench.leftovers() == NOTHING


def test_a_host_without_gpus_is_reported(bench_of: BenchMaker) -> None:
    assert "no GPU" in create(bench_of(FakeGpus([]))).json["detail"]


def test_a_broken_egress_proxy_is_reported_and_stops_nothing_else(bench: Bench) -> None:
    bench.egress.failure = NetworkUnavailable("The proxy does not run.")
    assert bench.client.get("/readyz").json["parts"]["egress"] == "The proxy does not run."
    assert bench.client.get("/readyz").status_code == 503
    session = bench.client.post("/sessions", json={"user_id": "user123"}).json
    bench.containers.end(session["session_id"])
    bench.reconciler.reconcile()
    assert bench.leftovers() == NOTHING


def test_a_lease_is_an_hour_by_default_and_never_longer_than_the_longest(bench_of: BenchMaker) -> None:
    def minutes(**settings: int) -> float:
        answer = create(bench_of(FakeGpus(["A100-40GB"]), **settings), f"user{len(settings)}").json
        ends, begins = (datetime.fromisoformat(answer[name]) for name in ("expires_at", "created_at"))
        return (ends - begins).total_seconds() / 60

    assert minutes() == 60
    assert minutes(max_ttl_minutes=30) == 30


def test_addresses_of_foreign_containers_are_not_given_to_sessions(bench: Bench) -> None:
    bench.network.taken = {"10.213.0.3", "10.213.0.4"}
    session = create(bench).json
    assert bench.containers.spec(session["session_id"]).address == "10.213.0.5"


def test_an_address_that_docker_refuses_is_avoided_and_the_next_is_used(bench: Bench) -> None:
    bench.containers.foreign_addresses = {"10.213.0.3", "10.213.0.4"}
    session = create(bench).json
    assert bench.containers.spec(session["session_id"]).address == "10.213.0.5"
    assert bench.network.avoided == {"10.213.0.3", "10.213.0.4"}
    assert create(bench, "user456").status_code == 201


def test_addresses_that_are_refused_again_and_again_fail_one_create_and_not_the_next(bench: Bench) -> None:
    bench.containers.foreign_addresses = {f"10.213.0.{number}" for number in range(3, 7)}
    assert create(bench).status_code == 503
    assert bench.leftovers() == NOTHING
    assert create(bench).status_code == 201


def test_no_session_is_opened_on_a_daemon_that_cannot_isolate_it(bench: Bench) -> None:
    refused = DockerUnavailable("Docker runs containers without a seccomp profile.")
    bench.containers.fail("require_isolation", refused)
    response = create(bench)
    assert (response.status_code, response.json["detail"]) == (503, str(refused))
    assert bench.leftovers() == NOTHING
