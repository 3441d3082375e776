"""Docker, the router and the whole server are restarted under live sessions."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from gateway.simulation.store import Store
from tests import own
from tests.fakes.faults import Faults
from tests.own_docker import OwnDocker, own_docker
from tests.soak import agreement
from tests.warm import own_warm
from tests.whole_gateway import NETWORK, Gateway, eventually, running

SESSIONS = 20


class Ground:
    """A gateway, and a Docker daemon of the test's own."""

    def __init__(self, gateway: Gateway, docker: OwnDocker) -> None:
        self.gateway, self.docker = gateway, docker
        self.faults = Faults(Store(gateway.directory / "state/simulated-gpus.json"))

    def create(self, count: int) -> dict[str, str]:
        """Session ids by user; each has a file in the workspace."""
        users = [own.user(f"user{number}") for number in range(count)]
        with ThreadPoolExecutor(4) as pool:
            made = pool.map(lambda user: self.gateway.create(user, mig_profile="1g.5gb"), users)
            sessions = {session["user_id"]: session["session_id"] for session in made}
            list(pool.map(lambda user: self.gateway.in_session(user, "echo kept > kept"), users))
        return sessions

    def look(self) -> agreement.Places:
        return agreement.look(self.gateway.directory, NETWORK)

    def reasons(self, sessions: dict[str, str]) -> list[str]:
        """Why they ended, once all have."""
        eventually(lambda: self.gateway.get("/sessions")["sessions"] == [], seconds=60)
        return [self.gateway.get(f"/sessions/{session_id}")["reason"] for session_id in sessions.values()]

    def require_nothing_left(self, sessions: dict[str, str]) -> None:
        """Nothing but the workspaces, with what is in them."""
        places = self.look()
        left = [places.rows, places.containers, places.instances, places.pipes, places.files]
        assert not any(left), left
        for user in sessions:
            assert (self.gateway.directory / "workspaces" / user / "kept").read_text() == "kept\n"


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with own_docker() as docker, own_warm() as warm:
        docker.load(os.environ.get("GATEWAY_IMAGE", "gpu-workspace"))
        with running(Gateway(tmp_path_factory.mktemp("restarts"), "3xA100-40GB", warm=warm)) as gateway:
            yield Ground(gateway, docker)


@pytest.fixture(scope="module")
def sessions(ground: Ground) -> dict[str, str]:
    return ground.create(SESSIONS)


def test_a_kill_of_docker_that_keeps_containers_costs_no_session(
    ground: Ground, sessions: dict[str, str]
) -> None:
    before = ground.look()
    ground.docker.restart(signal.SIGKILL)
    ground.gateway.until_ready()
    with ThreadPoolExecutor(4) as pool:
        homes = pool.map(lambda user: ground.gateway.in_session(user, "cat kept"), sessions)
    assert list(homes) == ["kept\n"] * SESSIONS
    after = ground.look()
    assert agreement.problems(after) == []
    assert after.rows.keys() == before.rows.keys() == set(sessions.values())
    assert after.containers == before.containers


def test_a_kill_of_the_router_costs_connections_only(ground: Ground, sessions: dict[str, str]) -> None:
    ground.gateway.kill("router")
    ground.gateway.start("router")
    eventually(lambda: not ground.gateway.refused(own.user("user0")))
    assert agreement.problems(ground.look()) == []
    assert len(sessions) == len(ground.look().rows)


def test_a_kill_of_docker_that_keeps_no_containers_ends_all_sessions_cleanly(
    ground: Ground, sessions: dict[str, str]
) -> None:
    ground.docker.live_restore = False
    ground.docker.restart(signal.SIGKILL)
    assert ground.reasons(sessions) == ["restarted"] * SESSIONS
    ground.require_nothing_left(sessions)


def test_after_a_reboot_sessions_say_so_and_all_is_clean(ground: Ground) -> None:
    sessions = ground.create(3)
    ground.gateway.kill("serve")
    ground.docker.stop(signal.SIGTERM)  # with it go the containers
    for gpu in range(3):
        ground.faults.reset(gpu)
    ground.docker.start()
    ground.gateway.serve()
    assert ground.reasons(sessions) == ["restarted"] * 3
    ground.require_nothing_left(sessions)
    assert ground.create(1)
