import pytest

from tests.conftest import Bench


def test_somebody_unknown_has_no_keys(bench: Bench) -> None:
    assert bench.client.get("/users/nobody-yet/keys").json == {"ssh_public_keys": []}


def test_stored_keys_open_the_next_session(bench: Bench, public_key: str) -> None:
    bare = " ".join(public_key.split()[:2])
    answer = bench.client.put("/users/user123/keys", json={"ssh_public_keys": [public_key]})
    assert (answer.status_code, answer.json) == (200, {"ssh_public_keys": [bare]})
    assert bench.client.get("/users/user123/keys").json == answer.json
    session = bench.client.post("/sessions", json={"user_id": "user123"}).json
    assert "ssh_private_key" not in session
    assert bench.pipes.list()[0].public_keys == (bare,)


def test_keys_are_replaced_and_can_all_be_removed(bench: Bench, public_key: str) -> None:
    bench.client.put("/users/user123/keys", json={"ssh_public_keys": [public_key]})
    emptied = bench.client.put("/users/user123/keys", json={"ssh_public_keys": []})
    assert emptied.json == {"ssh_public_keys": []}
    assert "ssh_private_key" in bench.client.post("/sessions", json={"user_id": "user123"}).json


@pytest.mark.parametrize("body", [{}, {"ssh_public_keys": ["x"]}, {"ssh_public_keys": "x"}, {"keys": []}, []])
def test_what_is_no_list_of_keys_is_refused(bench: Bench, body: object) -> None:
    assert bench.client.put("/users/user123/keys", json=body).status_code == 422


@pytest.mark.parametrize("user_id", ["root", "A", "a.b"])
def test_a_name_that_no_user_can_have_is_refused(bench: Bench, user_id: str) -> None:
    answer = bench.client.put(f"/users/{user_id}/keys", json={"ssh_public_keys": []})
    assert (answer.status_code, list(answer.json["errors"])) == (422, ["user_id"])
