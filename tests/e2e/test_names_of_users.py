"""User ids as directory services give them, from the API to the shell."""

import subprocess

import requests

from gateway.repositories.docker.client import Docker
from tests import own
from tests.whole_gateway import Gateway

USERS = [*map(own.user, ("john.doe", "Kim", "kim", "A_b-.C")), own.user_of_digits()]


def test_each_user_works_as_themselves_in_a_container_workspace_and_route_of_their_own(
    gateway: Gateway,
) -> None:
    sessions = {user: gateway.create(user, mig_profile="1g.5gb") for user in USERS}
    try:
        uids = set()
        for user in USERS:
            gateway.in_session(user, f"echo {user} > ~/mine && chown {user} ~/mine")
            seen = gateway.in_session(user, "whoami; pwd; cat ~/mine; stat -c %U ~/mine; id -u; hostname")
            name, home, content, owner, uid, host = seen.split()
            assert (name, home, content, owner) == (user, f"/home/{user}", user, user)
            assert host == user.replace("_", "-").replace(".", "-") + "-gpu"
            assert (gateway.directory / "workspaces" / user / "mine").read_text().strip() == user
            assert Docker().client.containers.get(f"{user}-container").id == sessions[user]["container_id"]
            uids.add(uid)
        assert len(uids) == len(USERS)
        others = gateway.ssh(own.user("Kim"), "true")
        others[-2] = others[-2].replace("Kim", "kim")
        assert subprocess.run(others, capture_output=True, timeout=30).returncode == 255  # it is Kim's key
    finally:
        for session in sessions.values():
            gateway.delete(session["session_id"])


def test_a_name_that_docker_cannot_carry_is_refused_with_the_reason(gateway: Gateway) -> None:
    for user in ("_ops", ".kim", "-x", "kim@uni.example", "김철수"):
        refused = requests.post(f"{gateway.url}/sessions", json={"user_id": user}, timeout=30)
        assert (refused.status_code, list(refused.json()["errors"])) == (422, ["user_id"])
        assert "Docker" in refused.json()["errors"]["user_id"][0]
