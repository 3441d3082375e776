"""Sessions on two real nodes, each with a kubelet, a containerd, a DRA driver and a GPU of its own.

The second node ends with the last test, which takes it away for good.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from tests import own
from tests.fleet.claims import PODS
from tests.fleet.gateways import IMAGE, SECONDS, SESSIONS, Replica, gateway_before
from tests.fleet.node import Node, another_node, kernel
from tests.whole_gateway import eventually

ANN, BOB, CAT = own.user("ann"), own.user("bob"), own.user("cat")


@dataclass
class Fleet:
    gateway: Replica
    nodes: tuple[Node, Node]

    def node_of(self, session: dict[str, Any]) -> Node:
        pod = self.gateway.plane.api().get(PODS, f"s-{session['session_id']}", SESSIONS) or {}
        return next(node for node in self.nodes if node.name == pod["spec"]["nodeName"])

    def other(self, node: Node) -> Node:
        return next(other for other in self.nodes if other is not node)

    def names(self) -> set[str]:
        """Of the nodes that have a GPU."""
        return {gpu["node"] for gpu in self.gateway.get("/gpus")["gpus"]}

    def open_on(self, node: Node, user: str, profile: str = "3g.20gb") -> dict[str, Any]:
        with self.cordoned(self.other(node)):
            made = self.gateway.create(user, mig_profile=profile)
        assert self.node_of(made) is node
        return made

    @contextmanager
    def cordoned(self, node: Node) -> Iterator[None]:
        """The one GPU of the node takes no new sessions."""
        self.command("gpus", "cordon", f"{node.name}/0")
        try:
            yield
        finally:
            self.command("gpus", "uncordon", f"{node.name}/0")

    def command(self, *arguments: str) -> None:
        done = self.gateway.run(*arguments)
        assert done.returncode == 0, done.stderr

    def problem_of(self, session: dict[str, Any]) -> str | None:
        problem: str | None = self.gateway.get(f"/sessions/{session['session_id']}").get("problem")
        return problem

    def look(self) -> None:
        """The gateway compares all sessions once a minute, and when it starts."""
        self.gateway.kill("serve")
        self.gateway.serve()

    def close(self, *sessions: dict[str, Any]) -> None:
        for session in sessions:
            assert self.gateway.delete(session["session_id"]).status_code == 204
        for session in sessions:
            eventually(lambda id=session["session_id"]: not self.gateway.leftovers(id), SECONDS)  # type: ignore[misc]


@pytest.fixture(scope="module")
def fleet(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    directory, before = tmp_path_factory.mktemp("two"), kernel()
    with another_node(node, IMAGE) as second:
        assert len(left_of(second)) > 2
        with gateway_before(node, directory) as gateway:
            yield Fleet(gateway, (node, second))
    assert left_of(second) == []
    assert kernel() == before


def left_of(node: Node) -> list[str]:
    """What the machine still has of it."""
    routes = subprocess.run(["ip", "route"], capture_output=True, text=True, check=True).stdout
    groups = [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/{own.name('fleet')}-{node.name}")]
    files = [str(node.directory)] if node.directory.exists() else []
    return groups + files + [line for line in routes.splitlines() if node.place.pods in line]


def test_sessions_fill_one_node_and_then_the_other(fleet: Fleet) -> None:
    made = {user: fleet.gateway.create(user, mig_profile="3g.20gb") for user in (ANN, BOB)}
    made[CAT] = fleet.gateway.create(CAT, mig_profile="7g.40gb")
    first, second = fleet.node_of(made[ANN]), fleet.node_of(made[CAT])
    assert first is fleet.node_of(made[BOB]) is not second
    assert (len(first.slices()), len(second.slices())) == (2, 1)
    assert fleet.names() == {first.name, second.name}
    for user, session in made.items():
        assert session["gpu_uuid"] in fleet.gateway.in_session(user, "nvidia-smi -L")
    fleet.close(*made.values())
    assert first.slices() == second.slices() == []


def test_a_cordon_sends_sessions_to_the_other_node_where_the_same_home_is(fleet: Fleet) -> None:
    before = fleet.gateway.create(ANN, mig_profile="1g.5gb")
    node = fleet.node_of(before)
    fleet.gateway.in_session(ANN, "echo of the first node > kept")
    fleet.close(before)
    with fleet.cordoned(node):
        after = fleet.gateway.create(ANN, mig_profile="1g.5gb")
    assert fleet.node_of(after) is fleet.other(node)
    assert fleet.gateway.in_session(ANN, "cat kept") == "of the first node\n"
    fleet.close(after)


def test_a_silent_kubelet_marks_the_sessions_of_its_node_alone(fleet: Fleet) -> None:
    silent, healthy = fleet.nodes
    on_silent, on_healthy = fleet.open_on(silent, ANN), fleet.open_on(healthy, BOB)
    silent.place.stop("kubelet")
    try:
        eventually(lambda: not silent.is_ready(), SECONDS)
        fleet.look()
        eventually(lambda: "does not answer" in (fleet.problem_of(on_silent) or ""), SECONDS)
        assert fleet.problem_of(on_healthy) is None
        new = fleet.gateway.create(CAT, mig_profile="1g.5gb")
        assert fleet.node_of(new) is healthy
        for user in (ANN, BOB, CAT):
            assert fleet.gateway.in_session(user, "echo works") == "works\n"
    finally:
        silent.start_kubelet()
    eventually(silent.is_ready, SECONDS)
    fleet.look()
    eventually(lambda: fleet.problem_of(on_silent) is None, SECONDS)
    assert fleet.gateway.in_session(ANN, "echo works") == "works\n"
    fleet.close(on_silent, on_healthy, new)


def test_the_sessions_of_a_node_that_was_lost_and_removed_end(fleet: Fleet) -> None:
    healthy, lost = fleet.nodes
    on_healthy, on_lost = fleet.open_on(healthy, ANN), fleet.open_on(lost, BOB)
    api = fleet.gateway.plane.api()
    lost.place.lose()
    api.delete("v1/nodes", lost.name)
    eventually(lambda: not fleet.gateway.leftovers(on_lost["session_id"]), SECONDS)
    answer = requests.get(f"{fleet.gateway.url}/sessions/{on_lost['session_id']}", timeout=30)
    assert (answer.status_code, answer.json()["reason"]) == (410, "failed")
    assert fleet.gateway.refused(BOB)
    assert fleet.problem_of(on_healthy) is None
    again = fleet.gateway.create(BOB, mig_profile="3g.20gb")
    for user in (ANN, BOB):
        assert fleet.gateway.in_session(user, "echo works") == "works\n"
    eventually(lambda: fleet.names() == {healthy.name}, SECONDS)
    fleet.close(on_healthy, again)
