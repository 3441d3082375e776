"""From POST to the shell and back again, as an administrator and a researcher see it."""

import json
import re
import subprocess
import threading
from typing import Any

import requests

from tests import own
from tests.whole_gateway import NETWORK, Gateway, eventually

USER, OTHER, KEEPER, LEAVER, ROTATOR, SLEEPER, QUITTER = map(
    own.user, ("user123", "other", "keeper", "leaver", "rotator", "sleeper", "quitter")
)


def test_the_user_is_in_the_container_as_soon_as_the_answer_is_there(
    gateway: Gateway, session: dict[str, Any]
) -> None:
    container = gateway.in_session(USER, "hostname; id -un; pwd").split()
    assert container == [f"{USER}-gpu", USER, f"/home/{USER}"]


def test_a_login_shell_shows_the_slice_and_the_end_of_the_lease(
    gateway: Gateway, session: dict[str, Any]
) -> None:
    shell = gateway.ssh(USER, options=("-tt",))
    shown = subprocess.run(
        shell, input=b"alias ll; echo PATH=$PATH; exit\n", capture_output=True, timeout=30
    ).stdout.decode()
    assert "3g.20gb, 19968 MiB" in shown
    assert session["gpu_uuid"] in shown
    assert session["expires_at"][:10] in shown
    assert "alias ll='ls -l'" in shown
    assert f"PATH=/home/{USER}/.local/bin:/usr/local/nvidia/bin:/usr/local/cuda/bin:/usr/local/" in shown


def test_commands_see_the_variables_of_their_slice(gateway: Gateway, session: dict[str, Any]) -> None:
    seen = gateway.in_session(USER, "echo $NVIDIA_VISIBLE_DEVICES; bash -lc 'echo $NVIDIA_VISIBLE_DEVICES'")
    assert seen.split() == [session["gpu_uuid"]] * 2


def test_the_tools_that_were_promised_are_there(gateway: Gateway, session: dict[str, Any]) -> None:
    tools = "nvtop git curl rsync tmux vim less python3"
    found = gateway.in_session(USER, f"for tool in {tools}; do command -v $tool; done").split()
    assert [path.rpartition("/")[2] for path in found] == tools.split()


def test_the_workspace_outlives_the_session(gateway: Gateway) -> None:
    first = gateway.create(KEEPER)
    gateway.in_session(KEEPER, "echo 'x = 1' > projects/model.py; touch /tmp/gone")
    assert gateway.delete(first["session_id"]).status_code == 204
    second = gateway.create(KEEPER)
    assert gateway.in_session(KEEPER, "cat projects/model.py; ls /tmp").strip() == "x = 1"
    gateway.delete(second["session_id"])


def test_a_session_sees_no_workspace_but_its_own(gateway: Gateway, session: dict[str, Any]) -> None:
    other = gateway.create(OTHER)
    assert gateway.in_session(OTHER, "ls /home").split() == [OTHER]
    gateway.delete(other["session_id"])


def test_deleting_cuts_the_live_connection_and_takes_everything_back(gateway: Gateway) -> None:
    session = gateway.create(LEAVER, mig_profile="3g.20gb")
    with subprocess.Popen(gateway.ssh(LEAVER, "echo ready; sleep 600"), stdout=subprocess.PIPE) as live:
        assert live.stdout is not None
        assert live.stdout.readline() == b"ready\n"
        assert gateway.delete(session["session_id"]).status_code == 204
        assert gateway.leftovers(session["session_id"]) == []
        assert live.wait(timeout=5) != 0
    assert gateway.refused(LEAVER)


def test_a_stored_key_that_is_withdrawn_is_out_at_once(gateway: Gateway) -> None:
    first = gateway.create(ROTATOR)  # leaves a key and the known_hosts line to log in with
    gateway.delete(first["session_id"])
    key = gateway.directory / f"{ROTATOR}.key"
    made = subprocess.run(["ssh-keygen", "-y", "-f", key], capture_output=True, text=True, check=True)
    public = gateway.directory / f"{ROTATOR}.pub"
    public.write_text(made.stdout)
    url = ("--url", gateway.url)
    assert gateway.run("keys", ROTATOR, str(public), *url).stdout.split() == made.stdout.split()[:2]
    session = gateway.create(ROTATOR)
    with subprocess.Popen(gateway.ssh(ROTATOR, "echo ready; sleep 600"), stdout=subprocess.PIPE) as live:
        assert live.stdout is not None
        assert live.stdout.readline() == b"ready\n"
        removed = gateway.run("keys", ROTATOR, "--remove", *url)
        assert (removed.returncode, removed.stdout) == (0, "")
        assert live.wait(timeout=5) != 0
    assert gateway.refused(ROTATOR)
    assert gateway.get(f"/sessions/{session['session_id']}")["status"] == "active"
    gateway.run("keys", ROTATOR, str(public), *url)
    assert gateway.in_session(ROTATOR, "id -un").strip() == ROTATOR
    gateway.delete(session["session_id"])
    assert (
        requests.get(f"{gateway.url}/sessions/{session['session_id']}", timeout=5).json()["reason"]
        == "deleted"
    )


def test_a_lease_that_ends_is_taken_back(gateway: Gateway) -> None:
    session = gateway.create(SLEEPER)
    gateway.expire(session["session_id"])
    eventually(lambda: gateway.leftovers(session["session_id"]) == [], seconds=10)
    assert (
        requests.get(f"{gateway.url}/sessions/{session['session_id']}", timeout=5).json()["reason"]
        == "expired"
    )


def test_a_removed_pipe_file_is_there_again_at_once(gateway: Gateway, session: dict[str, Any]) -> None:
    pipes = gateway.directory / "sshpiper/pipe.yaml"
    pipes.unlink()
    eventually(lambda: pipes.exists() and session["session_id"] in pipes.read_text())
    assert gateway.in_session(USER, "id -un").strip() == USER


def test_a_session_survives_a_kill_of_the_gateway(gateway: Gateway, session: dict[str, Any]) -> None:
    with subprocess.Popen(gateway.ssh(USER, "cat"), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as live:
        assert live.stdin is not None
        assert live.stdout is not None
        live.stdin.write(b"before\n")
        live.stdin.flush()
        assert live.stdout.readline() == b"before\n"
        gateway.kill("serve")
        gateway.serve()
        live.stdin.write(b"after\n")
        live.stdin.close()
        assert live.stdout.read() == b"after\n"
    assert gateway.in_session(USER, "echo $NVIDIA_VISIBLE_DEVICES").strip() == session["gpu_uuid"]
    assert gateway.get(f"/sessions/{session['session_id']}")["status"] == "active"


def test_a_lease_that_ended_while_the_gateway_was_down_is_taken_back_when_it_is_up(gateway: Gateway) -> None:
    session = gateway.create(SLEEPER)
    gateway.kill("serve")
    gateway.expire(session["session_id"])
    gateway.serve()
    eventually(lambda: gateway.leftovers(session["session_id"]) == [])


def test_a_user_who_kills_the_main_process_has_left(gateway: Gateway) -> None:
    session = gateway.create(QUITTER)
    subprocess.run(gateway.ssh(QUITTER, "kill 1"), timeout=30, capture_output=True)
    eventually(lambda: gateway.leftovers(session["session_id"]) == [], seconds=5)  # no minute passes
    assert gateway.get(f"/sessions/{session['session_id']}")["reason"] == "user_exit"


def test_many_users_at_once_each_land_in_their_own_container(gateway: Gateway) -> None:
    users = [own.user(f"crowd{number}") for number in range(8)]
    sessions: dict[str, dict[str, Any]] = {}

    def create(user_id: str) -> None:
        sessions[user_id] = gateway.create(user_id)

    threads = [threading.Thread(target=create, args=(user_id,)) for user_id in users]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {gateway.in_session(user_id, "id -un").strip() for user_id in users} == set(users)
    assert len({session["gpu_uuid"] for session in sessions.values()}) == len(users)
    assert [gateway.delete(session["session_id"]).status_code for session in sessions.values()] == [
        204
    ] * len(users)


def test_a_users_key_opens_no_other_users_door(gateway: Gateway, session: dict[str, Any]) -> None:
    other = gateway.create(OTHER)
    with_users_key = [part.replace(f"{OTHER}.key", f"{USER}.key") for part in gateway.ssh(OTHER, "true")]
    assert subprocess.run(with_users_key, capture_output=True, timeout=30).returncode == 255
    gateway.delete(other["session_id"])


def test_the_contracts_own_commands_answer(gateway: Gateway, session: dict[str, Any]) -> None:
    logs = subprocess.run(["docker", "logs", f"{USER}-container"], capture_output=True, text=True, check=True)
    assert "Server listening" in logs.stderr
    network = json.loads(subprocess.check_output(["docker", "network", "inspect", NETWORK]))
    assert network[0]["Internal"] is True
    assert session["session_id"] in (gateway.directory / "sshpiper/pipe.yaml").read_text()
    profiles = {profile["name"]: profile for profile in gateway.get("/gpus/profiles")["profiles"]}
    assert profiles["3g.20gb"]["total"] == 4
    assert profiles["3g.20gb"]["in_use"] == 1
    assert profiles["3g.20gb"]["available"] == 3
    [held] = [i for gpu in gateway.get("/gpus")["gpus"] for i in gpu["instances"]]
    assert (held["gpu_uuid"], held["owner"]) == (session["gpu_uuid"], "gateway")


def test_logs_are_lines_of_fields_and_no_private_key_is_told(
    gateway: Gateway, session: dict[str, Any]
) -> None:
    gateway.in_session(USER, "true")
    logs = [gateway.log("serve"), gateway.log("router")]
    secrets = ["PRIVATE", session["ssh_private_key"].splitlines()[1], "LS0tLS1CRUdJTi"]  # the last: base64
    for text in [*logs, json.dumps(gateway.get("/events"))]:
        assert session["session_id"] in text
        assert [secret for secret in secrets if secret in text] == []
    for line in "".join(logs).splitlines():
        assert re.match(r"time=\S+Z level=[a-z]+ logger=[a-z.]+ message=", line), line
