"""One contract for the fake containers and for Docker."""

import os
import subprocess
import threading
from contextlib import closing
from pathlib import Path

import pytest

from gateway.domain.ssh_keys import KeyPair
from gateway.errors import ContainerFailed
from gateway.repositories.docker.client import Docker
from gateway.repositories.docker.containers import DockerContainers
from gateway.repositories.host_parts import Containers, ContainerSpec
from tests.repositories.conftest import USER
from tests.repositories.containers.conftest import docker_containers, of
from tests.repositories.specs import of_session


def test_a_container_that_was_run_is_listed_and_speaks_ssh(
    containers: Containers, spec: ContainerSpec
) -> None:
    container_id = containers.run(spec)
    containers.wait_for_ssh(container_id, spec.address)
    assert of(containers, spec) == [(container_id, False)]


def test_a_removed_container_is_gone_when_the_call_returns(
    containers: Containers, spec: ContainerSpec
) -> None:
    containers.run(spec)
    containers.remove(spec.request.session_id)
    assert of(containers, spec) == []


def test_a_survivor_is_described_by_its_container_alone(containers: Containers, spec: ContainerSpec) -> None:
    containers.run(spec)
    [found] = [one for one in containers.survivors() if one.session_id == spec.request.session_id]
    assert (found.user_id, found.uid, found.address) == (
        spec.request.user_id,
        spec.request.uid,
        spec.address,
    )
    assert (found.allocation, found.expires_at) == (spec.allocation, spec.request.expires_at)
    assert found.is_running
    containers.remove(spec.request.session_id)
    assert spec.request.session_id not in [one.session_id for one in containers.survivors()]


def test_a_container_of_another_database_is_foreign(
    docker: Docker, real: DockerContainers, spec: ContainerSpec
) -> None:
    docker_containers(docker, deployment=lambda: "another").run(spec)
    [found] = [one for one in real.list() if one.session_id == spec.request.session_id]
    assert found.foreign
    [survivor] = [one for one in real.survivors() if one.session_id == spec.request.session_id]
    assert survivor.deployment == "another"


def test_removing_what_is_gone_already_is_success(containers: Containers, spec: ContainerSpec) -> None:
    containers.remove(spec.request.session_id)
    containers.run(spec)
    containers.remove(spec.request.session_id)
    containers.remove(spec.request.session_id)


def test_an_orphan_that_holds_the_users_name_makes_way(containers: Containers, spec: ContainerSpec) -> None:
    containers.run(of_session(spec, "an-earlier-session"))
    container_id = containers.run(spec)
    assert of(containers, spec) == [(container_id, False)]
    assert "an-earlier-session" not in [found.session_id for found in containers.list()]


def test_waiting_for_a_container_that_is_gone_fails(containers: Containers, spec: ContainerSpec) -> None:
    container_id = containers.run(spec)
    containers.remove(spec.request.session_id)
    with pytest.raises(ContainerFailed):
        containers.wait_for_ssh(container_id, spec.address)


def test_cutting_the_connections_of_what_is_gone_is_success(
    containers: Containers, spec: ContainerSpec
) -> None:
    containers.disconnect(spec.request.session_id)
    containers.run(spec)
    containers.disconnect(spec.request.session_id)
    containers.remove(spec.request.session_id)
    containers.disconnect(spec.request.session_id)


def test_connections_are_cut_and_what_runs_inside_goes_on(
    real: DockerContainers, docker: Docker, spec: ContainerSpec, router_key: KeyPair, tmp_path: Path
) -> None:
    os.chown(spec.workspace, spec.request.uid, spec.request.uid)
    key = tmp_path / "router.key"
    key.touch(mode=0o600)
    key.write_text(router_key.private)
    options = [
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
        "BatchMode=yes",
        "ConnectTimeout=5",
    ]
    ssh = ["ssh", "-F", "none", "-i", str(key), "-p", "2222", *(f"-o{option}" for option in options)]
    ssh.append(f"{USER}@{spec.address}")

    real.wait_for_ssh(real.run(spec), spec.address)
    command = "setsid sleep 599 <&- >&- 2>&- & echo ready; sleep 600"
    with (
        subprocess.Popen([*ssh, command], stdout=subprocess.PIPE) as stopped,
        subprocess.Popen([*ssh, command], stdout=subprocess.PIPE) as live,
    ):
        for connection in (stopped, live):
            assert connection.stdout is not None
            assert connection.stdout.readline() == b"ready\n"
        container = docker.client.containers.get(of(real, spec)[0][0])
        container.exec_run(["pkill", "-STOP", "-o", "-f", "sshd-session"])  # as its user could
        real.disconnect(spec.request.session_id)
        assert stopped.wait(timeout=5) == live.wait(timeout=5) == 255
    with subprocess.Popen([*ssh, command], stdout=subprocess.PIPE) as paused:
        assert paused.stdout is not None
        assert paused.stdout.readline() == b"ready\n"
        container.pause()
        real.disconnect(spec.request.session_id)
        container.unpause()
        assert paused.wait(timeout=5) == 255
    assert subprocess.run([*ssh, "pgrep -fc '^sleep 599'"], capture_output=True, timeout=20).stdout == b"3\n"


def test_who_follows_is_told_of_a_container_that_ends(containers: Containers, spec: ContainerSpec) -> None:
    with closing(containers.endings()) as endings:
        containers.run(spec)
        containers.remove(spec.request.session_id)
        assert next(iter(endings)) == spec.request.session_id


def test_following_ends_when_another_thread_closes_it(containers: Containers) -> None:
    endings, reported = containers.endings(), list[str]()
    follower = threading.Thread(target=lambda: reported.extend(endings))
    follower.start()
    endings.close()
    follower.join(timeout=5)
    assert (reported, follower.is_alive()) == ([], False)
    endings.close()
