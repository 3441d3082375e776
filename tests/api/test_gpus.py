from datetime import timedelta
from typing import Any

import pytest

from gateway.domain.mig import Gpu, Instance, MigMode, Placement
from gateway.errors import DriverUnavailable, GpuLost, PlacementTaken, SliceBusy
from tests.api.gpu_answers import gpu, offer
from tests.client import Answer
from tests.conftest import NOTHING, Bench, BenchMaker
from tests.fakes.gpus import FakeGpus


def create(bench: Bench, user_id: str, profile: str | None = None, ttl_minutes: int = 60) -> Answer:
    body = {"user_id": user_id, "ttl_minutes": ttl_minutes} | ({"mig_profile": profile} if profile else {})
    return bench.client.post("/sessions", json=body)


def opened(bench: Bench, user_id: str, profile: str | None = None, ttl_minutes: int = 60) -> Any:
    response = create(bench, user_id, profile, ttl_minutes)
    assert response.status_code == 201, response.text
    return response.json


def fit(bench: Bench, profile: str) -> Any:
    return bench.client.get("/gpus/fit", query_string={"profile": profile}).json


def stand(bench: Bench, profile: str, start: int, size: int) -> Instance:
    """An instance that the gateway did not create."""
    return bench.gpus.create(bench.gpus.list()[0].uuid, profile, Placement(start, size))


# What is there


def test_a_gpu_lists_its_instances_with_users_and_expiries(bench: Bench) -> None:
    session = opened(bench, "ann", "3g.20gb")
    shown = gpu(bench)
    assert shown["memory_slices"] == {"total": 8, "used": 4}
    [piece] = shown["instances"]
    assert {key: piece[key] for key in ("gpu_uuid", "session_id", "expires_at", "user_id", "profile")} == {
        "gpu_uuid": session["gpu_uuid"],
        "session_id": session["session_id"],
        "expires_at": session["expires_at"],
        "user_id": "ann",
        "profile": "3g.20gb",
    }
    assert (piece["owner"], piece["status"], piece["size"]) == ("gateway", "active", 4)


def test_a_foreign_instance_is_listed_avoided_and_never_destroyed(bench: Bench) -> None:
    other = stand(bench, "4g.20gb", 0, 4)
    session = opened(bench, "ann", "3g.20gb")
    pieces = gpu(bench)["instances"]
    assert [(piece["owner"], piece["start"]) for piece in pieces] == [("other", 0), ("gateway", 4)]
    assert pieces[0]["session_id"] is None
    assert create(bench, "bob", "1g.5gb").status_code == 503
    bench.client.delete(f"/sessions/{session['session_id']}")
    bench.reconciler.reconcile()
    assert bench.gpus.list()[0].instances == (other,)


def test_a_busy_instance_stays_allocated_and_the_reason_is_reported(bench: Bench) -> None:
    session = opened(bench, "ann", "7g.40gb")
    bench.gpus.fail("destroy", SliceBusy("DCGM holds it."))
    assert bench.client.delete(f"/sessions/{session['session_id']}").status_code == 202
    [piece] = gpu(bench)["instances"]
    assert (piece["status"], piece["problem"]) == ("closing", "DCGM holds it.")
    assert bench.client.get(f"/sessions/{session['session_id']}").json["problem"] == "DCGM holds it."
    assert create(bench, "bob", "1g.5gb").status_code == 503


def test_profiles_list_how_many_fit_and_when_the_next_one_will(bench: Bench) -> None:
    session = opened(bench, "ann", "4g.20gb", ttl_minutes=30)
    opened(bench, "bob", "3g.20gb", ttl_minutes=90)
    half = offer(bench, "3g.20gb")
    assert (half["total"], half["in_use"], half["available"]) == (2, 1, 0)
    assert half["next_available_at"] == session["expires_at"]


def test_the_profiles_of_different_gpus_are_listed_together(bench_of: BenchMaker) -> None:
    bench = bench_of(FakeGpus(["A100-80GB", "H100-80GB", "RTX-PRO-6000", "L4"]))
    assert offer(bench, "3g.40gb")["total"] == 4
    assert offer(bench, "1g.24gb+gfx")["total"] == 4
    assert [one["mig_mode"] for one in bench.client.get("/gpus").json["gpus"]] == [
        *["enabled"] * 3,
        "unsupported",
    ]


# Would it fit?


def test_a_profile_that_fits_now_is_reported_with_its_placement(bench: Bench) -> None:
    response = fit(bench, "3g.20gb")
    assert (response["profile"], response["fits"], response["waits_for"]) == ("3g.20gb", True, [])
    assert response["now"] == {
        "gpu_index": 0,
        "gpu_uuid": gpu(bench)["uuid"],
        "start": response["now"]["start"],
        "size": 4,
    }


def test_a_profile_that_does_not_fit_is_reported_with_the_sessions_it_waits_for(bench: Bench) -> None:
    opened(bench, "late", "4g.20gb", ttl_minutes=90)
    soon = opened(bench, "soon", "3g.20gb", ttl_minutes=30)
    response = fit(bench, "3g.20gb")
    assert (response["fits"], response["now"], response["at"]) == (False, None, soon["expires_at"])
    assert response["waits_for"] == [{key: soon[key] for key in ("session_id", "user_id", "expires_at")}]
    assert [one["user_id"] for one in fit(bench, "7g.40gb")["waits_for"]] == ["soon", "late"]


def test_a_profile_that_no_known_end_makes_room_for_has_no_time(bench: Bench) -> None:
    stand(bench, "7g.40gb", 0, 8)
    assert fit(bench, "1g.5gb") == {
        "profile": "1g.5gb",
        "fits": False,
        "now": None,
        "at": None,
        "waits_for": [],
        "in_line": 0,
    }


def test_an_unknown_profile_and_a_missing_one_are_refused(bench: Bench) -> None:
    unknown = bench.client.get("/gpus/fit?profile=1g.10gb%2Bme")
    assert unknown.status_code == 422
    assert "1g.5gb" in unknown.json["available_profiles"]
    assert bench.client.get("/gpus/fit").json["errors"]["profile"]
    assert bench.client.get("/gpus/fit?profil=1g.5gb").status_code == 422


def test_with_mig_off_everywhere_the_error_has_the_command_that_enables_it(bench: Bench) -> None:
    bench.gpus.set_mode(gpu(bench)["uuid"], MigMode.DISABLED)
    for response in (create(bench, "ann"), bench.client.get("/gpus/fit?profile=1g.5gb")):
        assert response.status_code == 503
        assert "nvidia-smi -i 0 -mig 1" in response.json["detail"]


# Cordons


def test_a_cordoned_gpu_gets_no_new_sessions_and_keeps_those_it_has(bench: Bench) -> None:
    opened(bench, "ann", "1g.5gb")
    assert bench.client.put("/gpus/0/cordon", json={"reason": "a fan is loud"}).status_code == 204
    shown = gpu(bench)
    assert (shown["cordoned"], shown["healthy"]) == (True, True)
    assert shown["reason"] == "cordoned: a fan is loud"
    refused = create(bench, "bob", "1g.5gb")
    assert refused.status_code == 503
    assert "GPU 0 takes no sessions: cordoned: a fan is loud." in refused.json["detail"]
    assert offer(bench, "1g.5gb")["available"] == 0
    bench.reconciler.reconcile()
    assert [session.user_id for session in bench.sessions.list()] == ["ann"]


def test_uncordoning_a_gpu_without_a_cordon_is_no_event(bench: Bench) -> None:
    assert bench.client.delete("/gpus/0/cordon").status_code == 204
    assert bench.client.get("/events").json["events"] == []


def test_an_uncordoned_gpu_is_used_again(bench: Bench) -> None:
    bench.client.put("/gpus/0/cordon")
    bench.client.put("/gpus/0/cordon", json={"reason": "once more"})
    assert gpu(bench)["reason"] == "cordoned: once more"
    for _ in range(2):
        assert bench.client.delete("/gpus/0/cordon").status_code == 204
    assert (gpu(bench)["cordoned"], gpu(bench)["reason"]) == (False, None)
    opened(bench, "ann")


def test_the_other_gpu_is_chosen_while_one_is_cordoned(bench_of: BenchMaker) -> None:
    bench = bench_of(FakeGpus(["A100-40GB", "A100-40GB"]))
    bench.client.put("/gpus/1/cordon")
    for number in range(7):
        opened(bench, f"user{number}", "1g.5gb")
    assert gpu(bench, 1)["instances"] == []


def test_a_gpu_may_be_named_by_its_uuid(bench: Bench) -> None:
    assert bench.client.put(f"/gpus/{gpu(bench)['uuid']}/cordon").status_code == 204
    assert gpu(bench)["cordoned"]
    assert bench.client.delete("/gpus/0/cordon").status_code == 204
    assert not gpu(bench)["cordoned"]


@pytest.mark.parametrize("method", ["put", "delete"])
def test_an_unknown_gpu_cannot_be_cordoned(bench: Bench, method: str) -> None:
    response = getattr(bench.client, method)("/gpus/1/cordon")
    assert response.status_code == 404
    assert response.json["type"] == "/problems/gpu-not-found"
    assert bench.client.put("/gpus/0/cordon", json={"why": "?"}).status_code == 422


# Health


def test_a_lost_gpu_is_avoided_and_used_again_once_it_returns(bench: Bench) -> None:
    session = opened(bench, "ann", "3g.20gb")
    uuid = gpu(bench)["uuid"]
    bench.gpus.set_fault(uuid, "GPU is lost")
    bench.reconciler.reconcile()
    assert (gpu(bench)["healthy"], gpu(bench)["reason"]) == (False, "GPU is lost")
    assert "GPU is lost" in bench.client.get(f"/sessions/{session['session_id']}").json["problem"]
    assert create(bench, "bob", "1g.5gb").status_code == 503
    bench.gpus.set_fault(uuid, None)
    bench.reconciler.reconcile()
    assert bench.client.get(f"/sessions/{session['session_id']}").json["problem"] is None
    opened(bench, "bob", "1g.5gb")


def test_a_lost_gpu_ends_no_session_and_keeps_none_that_its_user_ends(bench: Bench) -> None:
    session = opened(bench, "ann", "3g.20gb")
    before = bench.leftovers()
    bench.gpus.set_fault(gpu(bench)["uuid"], "GPU is lost")
    bench.reconciler.reconcile()
    assert bench.leftovers() == before
    assert bench.client.delete(f"/sessions/{session['session_id']}").status_code == 204
    assert bench.leftovers() == {**NOTHING, "instances": ["3g.20gb"]}
    assert create(bench, "ann", "3g.20gb").status_code == 503
    bench.gpus.set_fault(gpu(bench)["uuid"], None)
    assert [each["session_id"] for each in gpu(bench)["instances"]] == [None]
    bench.reconciler.reconcile()
    assert bench.leftovers() == NOTHING


def test_a_session_whose_instance_vanished_ends_as_gpu_lost(bench: Bench) -> None:
    session = opened(bench, "ann", "3g.20gb")
    [instance] = bench.gpus.list()[0].instances
    bench.gpus.destroy(instance.gpu_uuid, instance.profile, instance.placement)
    other = stand(bench, "3g.20gb", instance.placement.start, 4)
    bench.reconciler.reconcile()
    assert bench.client.get(f"/sessions/{session['session_id']}").json["reason"] == "gpu_lost"
    assert bench.gpus.list()[0].instances == (other,)
    assert bench.containers.list() == []


@pytest.mark.parametrize("error", [DriverUnavailable("no driver"), GpuLost("lost")])
def test_a_driver_that_does_not_answer_ends_no_session_and_stops_nothing_else(
    bench: Bench, error: Exception
) -> None:
    opened(bench, "ann")
    gone = opened(bench, "bob")
    bench.containers.end(gone["session_id"])
    bench.pipes.remove(bench.sessions.list()[0].id)
    bench.gpus.fail("list", error)
    bench.reconciler.reconcile()
    assert [session.user_id for session in bench.sessions.list()] == ["ann"]
    assert len(bench.pipes.list()) == 1


# Hosts that are partitioned ahead of time


@pytest.fixture
def static(bench_of: BenchMaker) -> Bench:
    """One 3g.20gb and two 1g.5gb stand ready."""
    bench = bench_of(FakeGpus(["A100-40GB"]), mig_policy="static")
    for profile, start, size in (("3g.20gb", 4, 4), ("1g.5gb", 0, 1), ("1g.5gb", 1, 1)):
        stand(bench, profile, start, size)
    return bench


def test_static_uses_an_existing_instance_and_leaves_it_in_place(static: Bench) -> None:
    before = static.gpus.list()
    session = opened(static, "ann", "3g.20gb")
    [half] = [one for one in before[0].instances if one.profile == "3g.20gb"]
    assert session["gpu_uuid"] == half.mig_uuid
    static.client.delete(f"/sessions/{session['session_id']}")
    assert static.gpus.list() == before
    assert opened(static, "bob", "3g.20gb")["gpu_uuid"] == half.mig_uuid


def test_static_creates_no_instance(static: Bench) -> None:
    first = opened(static, "ann", "1g.5gb", ttl_minutes=30)
    opened(static, "bob", "1g.5gb")
    refused = create(static, "cid", "1g.5gb")
    assert refused.status_code == 503
    assert refused.json["retry_at"] == first["expires_at"]
    assert len(static.instances()) == 3
    assert [one["user_id"] for one in fit(static, "1g.5gb")["waits_for"]] == ["ann"]


def test_static_lists_only_the_profiles_of_existing_instances(static: Bench) -> None:
    assert create(static, "ann", "2g.10gb").json["available_profiles"] == ["1g.5gb", "3g.20gb"]
    quarter = offer(static, "1g.5gb")
    assert (quarter["total"], quarter["available"]) == (2, 2)
    opened(static, "ann")
    assert offer(static, "1g.5gb")["available"] == 1
    assert [one["session_id"] is None for one in gpu(static)["instances"]].count(False) == 1


def test_static_on_a_host_without_instances_says_how_to_create_them(bench_of: BenchMaker) -> None:
    assert "nvidia-smi mig -cgi" in create(bench_of(FakeGpus(), mig_policy="static"), "ann").json["detail"]


def test_an_instance_destroyed_before_its_use_is_noticed(
    static: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_gpus = static.gpus.list
    looks: list[list[Gpu]] = []

    def list_and_take_away() -> list[Gpu]:
        seen = list_gpus()
        if not looks:
            [half] = [one for one in seen[0].instances if one.profile == "3g.20gb"]
            static.gpus.destroy(half.gpu_uuid, half.profile, half.placement)
        looks.append(seen)
        return seen

    monkeypatch.setattr(static.gpus, "list", list_and_take_away)
    assert create(static, "ann", "3g.20gb").status_code == 422
    assert static.containers.list() == []


def test_mixed_prefers_an_idle_instance_and_otherwise_creates_one(bench_of: BenchMaker) -> None:
    bench = bench_of(FakeGpus(["A100-40GB"]), mig_policy="mixed")
    idle = stand(bench, "1g.5gb", 0, 1)
    assert offer(bench, "1g.5gb")["available"] == 7
    first, second = opened(bench, "ann", "1g.5gb"), opened(bench, "bob", "1g.5gb")
    assert first["gpu_uuid"] == idle.mig_uuid
    assert second["gpu_uuid"] != idle.mig_uuid
    for session in (first, second):
        bench.client.delete(f"/sessions/{session['session_id']}")
    assert bench.gpus.list()[0].instances == (idle,)


def test_dynamic_never_uses_an_instance_it_did_not_create(bench: Bench) -> None:
    idle = stand(bench, "1g.5gb", 0, 1)
    assert opened(bench, "ann", "1g.5gb")["gpu_uuid"] != idle.mig_uuid


# Bad luck


def test_if_another_program_takes_the_placement_first_another_one_is_chosen(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = bench.gpus.create
    others: list[Instance] = []

    def create_after_another(gpu_uuid: str, profile: str, placement: Placement) -> Instance:
        if not others:
            others.append(make(gpu_uuid, profile, placement))
        return make(gpu_uuid, profile, placement)

    monkeypatch.setattr(bench.gpus, "create", create_after_another)
    session = opened(bench, "ann", "3g.20gb")
    assert len(bench.instances()) == 2
    bench.client.delete(f"/sessions/{session['session_id']}")
    assert list(bench.gpus.list()[0].instances) == others


def refusing(bench: Bench, index: int, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Placement]]:
    """Let the GPU of this index refuse every create. Return the list that receives each create."""
    make, asked = bench.gpus.create, list[tuple[int, Placement]]()
    index_of = {gpu.uuid: gpu.index for gpu in bench.gpus.list()}

    def create_or_refuse(gpu_uuid: str, profile: str, placement: Placement) -> Instance:
        asked.append((index_of[gpu_uuid], placement))
        if index_of[gpu_uuid] == index:
            raise PlacementTaken("The driver refuses.")
        return make(gpu_uuid, profile, placement)

    monkeypatch.setattr(bench.gpus, "create", create_or_refuse)
    return asked


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("profile", ["1g.5gb", "3g.20gb", "7g.40gb"])
def test_after_a_refusal_another_gpu_is_tried(
    bench_of: BenchMaker, index: int, profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = bench_of(FakeGpus(["A100-40GB", "A100-40GB"]))
    asked = refusing(bench, index, monkeypatch)
    opened(bench, "ann", profile)
    assert [gpu for gpu, _ in asked] in ([1 - index], [index, 1 - index])


def test_a_placement_that_is_refused_is_tried_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = refusing(bench, 0, monkeypatch)
    assert create(bench, "ann", "7g.40gb").json["type"] == "/problems/placement-taken"
    assert asked == [(0, Placement(0, 8))]
    assert bench.leftovers() == NOTHING


def test_beside_all_media_engines_the_other_gpu_has_the_placements(bench_of: BenchMaker) -> None:
    bench = bench_of(FakeGpus(["RTX-PRO-6000", "RTX-PRO-6000"]))
    opened(bench, "ann", "1g.24gb+me.all")
    for number in range(4):
        assert offer(bench, "1g.24gb")["available"] == 4 - number
        assert fit(bench, "1g.24gb")["fits"]
        opened(bench, f"user{number}", "1g.24gb")
    assert not fit(bench, "1g.24gb")["fits"]
    assert create(bench, "last", "1g.24gb").json["type"] == "/problems/no-capacity"
    opened(bench, "last", "1g.24gb-me")


def test_a_placement_is_tried_only_a_few_times(bench: Bench) -> None:
    bench.gpus.fail("create", PlacementTaken("Something stands there."))
    assert create(bench, "ann").json["type"] == "/problems/placement-taken"
    assert bench.leftovers() == NOTHING


def test_refused_requests_are_demand_and_unknown_profiles_are_not(bench: Bench) -> None:
    opened(bench, "ann", "7g.40gb")
    for user in ("bob", "cid", "cid"):
        assert create(bench, user, "4g.20gb").status_code == 503
    create(bench, "dan", "9g.999gb")
    assert create(bench, "eve").status_code == 503
    with bench.database.read() as rows:
        assert rows.demand() == {"7g.40gb": 1, "4g.20gb": 2, "1g.5gb": 1}


def test_the_most_requested_profile_decides_the_next_placement(bench: Bench) -> None:
    for number in range(20):
        session = opened(bench, f"user{number}", "4g.20gb")
        bench.client.delete(f"/sessions/{session['session_id']}")
    with bench.database.read() as rows:
        assert rows.demand() == {"4g.20gb": 20}
    bench.clock.now += timedelta(minutes=1)
    assert fit(bench, "4g.20gb")["fits"]
    opened(bench, "small", "1g.5gb")
    assert fit(bench, "4g.20gb")["fits"], "the half that only a 4g can have is kept for it"


def test_readyz_shows_what_a_session_of_each_profile_may_use(bench: Bench) -> None:
    limits = bench.client.get("/readyz").json["parts"]["limits"]
    assert limits.startswith("ok: 1g.5gb 0.1250 of the host; ")
    assert limits.endswith("; 7g.40gb 1.0000 of the host")


def test_a_session_s_limits_follow_its_share_of_all_gpus(bench_of: BenchMaker) -> None:
    bench = bench_of(FakeGpus(["A100-40GB", "A100-40GB"]))
    shares = {}
    for user, profile in (("small", "1g.5gb"), ("large", "7g.40gb")):
        answer = bench.client.post("/sessions", json={"user_id": user, "mig_profile": profile})
        shares[user] = bench.containers.spec(answer.json["session_id"]).host_share
    assert shares == {"small": 1 / 16, "large": 8 / 16}
