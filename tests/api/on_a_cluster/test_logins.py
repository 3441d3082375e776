"""The SSH connections of a cluster: whom they reach, and what users without a session read."""

from gateway.domain.notice import NoticeState
from gateway.domain.ssh_keys import make_pair
from tests.on_a_cluster import OnCluster


def test_a_withdrawn_key_closes_the_connections_by_ssh(on_cluster: OnCluster, public_key: str) -> None:
    on_cluster.ask("PUT", "/users/ann/keys", ssh_public_keys=[public_key])
    id = on_cluster.open()
    address = on_cluster.address(id)
    on_cluster.logins.connections[address] = 2
    [before] = on_cluster.parts.pipes.list()
    answer = on_cluster.ask("PUT", "/users/ann/keys", ssh_public_keys=[make_pair().public])
    assert answer.status_code == 200, answer.json
    assert on_cluster.logins.connections[address] == 0
    [after] = on_cluster.parts.pipes.list()
    assert before.public_keys != after.public_keys


def test_users_without_a_session_read_why_it_ended_and_their_place_in_line(on_cluster: OnCluster) -> None:
    notices = on_cluster.parts.notices
    id = on_cluster.open("ann", "7g.40gb", ttl_minutes=60)
    waits = on_cluster.ask("POST", "/sessions", user_id="bob", mig_profile="7g.40gb", wait_minutes=300)
    assert waits.status_code == 202, waits.json
    waiting = notices.get("bob")
    assert waiting
    assert waiting.state is NoticeState.WAITING
    on_cluster.ask("DELETE", f"/sessions/{id}")
    ended = notices.get("ann")
    assert ended
    assert (ended.session_id, ended.state) == (id, NoticeState.ENDED)
    for due in on_cluster.gateway.queue.serve():
        on_cluster.gateway.queue.open(due)
    opened = notices.get("bob")
    assert opened
    assert opened.state is NoticeState.OPEN


def test_notices_that_are_right_are_not_written_again(on_cluster: OnCluster) -> None:
    on_cluster.ask("DELETE", f"/sessions/{on_cluster.open()}")
    on_cluster.cluster.api.requests.clear()
    on_cluster.gateway.reaper.reconcile()
    asked = [each for each in on_cluster.cluster.api.requests if "configmaps" in each]
    assert asked == ["GET configmaps"]
    [found] = on_cluster.cluster.api.of("configmaps")
    name = found["metadata"]["name"]
    on_cluster.cluster.api.change("configmaps", "gpu-routes", name, {"data": {"notice": "changed"}})
    on_cluster.gateway.reaper.reconcile()
    assert on_cluster.parts.notices.get("ann")
