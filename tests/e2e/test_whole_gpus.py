"""GPUs without MIG through a gateway that serves: the API, the command line, the doctor and a login."""

from collections.abc import Iterator

import pytest
import requests

from tests import own
from tests.whole_gateway import Gateway, running

ANN, BOB, CARL = map(own.user, ("ann", "bob", "carl"))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    directory = tmp_path_factory.mktemp("whole")
    settings = {"GATEWAY_WHOLE_GPUS": "1"}
    with running(Gateway(directory, gpus="1xL4,1xA100-40GB", settings=settings)) as gateway:
        yield gateway


def test_a_whole_gpu_is_leased_shown_checked_and_given_back(gateway: Gateway) -> None:
    session = gateway.create(ANN, mig_profile="full")
    gpu = gateway.get("/gpus")["gpus"][0]
    assert session["gpu_uuid"] == gpu["uuid"]
    assert gateway.in_session(ANN, "echo $NVIDIA_VISIBLE_DEVICES").strip() == gpu["uuid"]
    assert "full, 23034 MiB of NVIDIA L4" in gateway.in_session(ANN, "cat /etc/gateway/motd")
    drawn = gateway.run("gpus").stdout
    assert "NVIDIA L4  23034 MiB, leased whole, simulated" in drawn
    assert "no MIG" not in drawn
    body = {"user_id": BOB, "mig_profile": "full"}
    assert requests.post(f"{gateway.url}/sessions", json=body, timeout=60).status_code == 503
    small = gateway.create(BOB)
    assert small["mig_profile"] == "1g.5gb"
    doctor = gateway.run("doctor")
    assert "GPU 0 leased whole, GPU 1 enabled" in doctor.stdout
    assert gateway.delete(session["session_id"]).status_code == 204
    assert gateway.delete(small["session_id"]).status_code == 204
    profiles = {each["name"]: each for each in gateway.get("/gpus/profiles")["profiles"]}
    assert (profiles["full"]["available"], profiles["full"]["total"]) == (1, 1)


def test_a_killed_gateway_keeps_the_session_on_its_whole_gpu(gateway: Gateway) -> None:
    session = gateway.create(CARL, mig_profile="full")
    gateway.kill("serve")
    gateway.serve()
    shown = gateway.get(f"/sessions/{session['session_id']}")
    assert (shown["status"], shown["problem"], shown["gpu_uuid"]) == ("active", None, session["gpu_uuid"])
    assert gateway.in_session(CARL, "echo alive").strip() == "alive"
    assert gateway.delete(session["session_id"]).status_code == 204
