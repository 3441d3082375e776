from typing import Any

import pytest

from gateway.domain.ssh_keys import make_pair
from gateway.errors import ContainerFailed, PipesUnavailable
from tests.conftest import NOTHING, Bench


def test_an_unknown_user_has_no_keys(bench: Bench) -> None:
    assert bench.client.get("/users/nobody-yet/keys").json == {"ssh_public_keys": []}


def test_stored_keys_open_the_next_session(bench: Bench, public_key: str) -> None:
    bare = " ".join(public_key.split()[:2])
    response = bench.client.put("/users/user123/keys", json={"ssh_public_keys": [public_key]})
    assert (response.status_code, response.json) == (200, {"ssh_public_keys": [bare]})
    assert bench.client.get("/users/user123/keys").json == response.json
    session = bench.client.post("/sessions", json={"user_id": "user123"}).json
    assert "ssh_private_key" not in session
    assert bench.pipes.list()[0].public_keys == (bare,)


def test_keys_are_replaced_and_can_all_be_removed(bench: Bench, public_key: str) -> None:
    bench.client.put("/users/user123/keys", json={"ssh_public_keys": [public_key]})
    emptied = bench.client.put("/users/user123/keys", json={"ssh_public_keys": []})
    assert emptied.json == {"ssh_public_keys": []}
    assert "ssh_private_key" in bench.client.post("/sessions", json={"user_id": "user123"}).json


@pytest.mark.parametrize("body", [{}, {"ssh_public_keys": ["x"]}, {"ssh_public_keys": "x"}, {"keys": []}, []])
def test_a_body_that_is_not_a_list_of_keys_is_refused(bench: Bench, body: object) -> None:
    assert bench.client.put("/users/user123/keys", json=body).status_code == 422


@pytest.mark.parametrize("user_id", ["root", "_ops", "a@b"])
def test_an_invalid_user_id_is_refused(bench: Bench, user_id: str) -> None:
    response = bench.client.put(f"/users/{user_id}/keys", json={"ssh_public_keys": []})
    assert (response.status_code, list(response.json["errors"])) == (422, ["user_id"])


FIRST, SECOND = make_pair().public, make_pair().public


def store(bench: Bench, *keys: str) -> Any:
    return bench.client.put("/users/user123/keys", json={"ssh_public_keys": list(keys)})


def opened(bench: Bench, **body: Any) -> str:
    return str(bench.client.post("/sessions", json={"user_id": "user123", **body}).json["session_id"])


def admitted(bench: Bench) -> list[tuple[str, ...]]:
    return [pipe.public_keys for pipe in bench.pipes.list()]


def cuts(bench: Bench) -> int:
    return bench.containers.calls.count("disconnect")


def test_a_live_session_follows_the_stored_keys_that_opened_it(bench: Bench) -> None:
    store(bench, FIRST)
    opened(bench)
    store(bench, SECOND)
    assert (admitted(bench), cuts(bench)) == ([(SECOND,)], 1)


def test_adding_a_key_disconnects_no_one(bench: Bench) -> None:
    store(bench, FIRST)
    opened(bench)
    store(bench, FIRST, SECOND)
    assert (admitted(bench), cuts(bench)) == ([(FIRST, SECOND)], 0)


def test_a_session_keeps_the_keys_that_were_given_for_it(bench: Bench) -> None:
    opened(bench, ssh_public_keys=[FIRST])
    store(bench, SECOND)
    assert (admitted(bench), cuts(bench)) == ([(FIRST,)], 0)


def test_a_session_keeps_the_pair_that_the_gateway_made(bench: Bench) -> None:
    opened(bench)
    before = admitted(bench)
    store(bench, SECOND)
    assert (admitted(bench), cuts(bench)) == (before, 0)


def test_a_session_without_keys_continues_without_a_route(bench: Bench) -> None:
    store(bench, FIRST)
    session_id = opened(bench)
    assert store(bench).status_code == 200
    bench.reconciler.reconcile()
    assert (admitted(bench), cuts(bench)) == ([], 1)
    assert bench.client.get(f"/sessions/{session_id}").json["status"] == "active"
    store(bench, SECOND)
    assert admitted(bench) == [(SECOND,)]
    assert bench.client.delete(f"/sessions/{session_id}").status_code == 204
    assert bench.leftovers() == NOTHING


@pytest.mark.parametrize("body", [{}, {"ssh_public_keys": [FIRST]}])
def test_an_administrator_can_replace_the_keys_of_any_live_session(
    bench: Bench, body: dict[str, Any]
) -> None:
    session_id = opened(bench, **body)
    response = bench.client.put(f"/sessions/{session_id}/keys", json={"ssh_public_keys": [SECOND]})
    assert (response.status_code, response.json) == (200, {"ssh_public_keys": [SECOND]})
    assert (admitted(bench), cuts(bench)) == ([(SECOND,)], 1)


def test_a_session_with_keys_of_its_own_no_longer_follows_the_stored_ones(bench: Bench) -> None:
    store(bench, FIRST)
    session_id = opened(bench)
    bench.client.put(f"/sessions/{session_id}/keys", json={"ssh_public_keys": []})
    store(bench, FIRST)
    assert admitted(bench) == []


def test_the_keys_of_an_unknown_or_ended_session_cannot_be_replaced(bench: Bench) -> None:
    session_id = opened(bench)
    bench.client.delete(f"/sessions/{session_id}")
    for path, status in (("no-such-session", 404), (session_id, 410)):
        response = bench.client.put(f"/sessions/{path}/keys", json={"ssh_public_keys": [FIRST]})
        assert response.status_code == status


def test_the_reaper_completes_a_revocation_that_could_not_be_published(bench: Bench) -> None:
    store(bench, FIRST)
    opened(bench)
    bench.pipes.fail("replace", PipesUnavailable("The pipe file is damaged."))
    assert store(bench, SECOND).status_code == 503
    assert (admitted(bench), cuts(bench)) == ([(FIRST,)], 0)
    bench.pipes.fail("replace", None)
    bench.reconciler.reconcile()
    assert (admitted(bench), cuts(bench)) == ([(SECOND,)], 1)


def test_a_failed_disconnect_is_repeated_until_it_succeeds_and_not_after(bench: Bench) -> None:
    store(bench, FIRST)
    opened(bench)
    bench.containers.fail("disconnect", ContainerFailed("It does not answer."))
    assert store(bench).status_code == 503
    bench.reconciler.reconcile()
    bench.containers.fail("disconnect", None)
    bench.reconciler.reconcile()
    bench.reconciler.reconcile()
    assert cuts(bench) == 3


def test_keys_revoked_while_their_session_ends_are_no_failure(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(bench, FIRST)
    session_id = opened(bench)

    def gone_meanwhile(_session_id: str) -> None:
        assert bench.client.delete(f"/sessions/{session_id}").status_code == 204
        raise ContainerFailed("It does not run.")

    monkeypatch.setattr(bench.containers, "disconnect", gone_meanwhile)
    assert store(bench, SECOND).status_code == 200


def test_a_key_revoked_while_its_session_opens_does_not_open_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(bench, FIRST)
    run = bench.containers.run

    def withdrawn_meanwhile(spec: Any) -> str:
        store(bench, SECOND)
        return run(spec)

    monkeypatch.setattr(bench.containers, "run", withdrawn_meanwhile)
    opened(bench)
    assert admitted(bench) == [(SECOND,)]
    bench.gateway.reaper.reconcile()
    assert cuts(bench) == 0, "no route stood before, so nobody was let in"
