"""Two gateways on one PostgreSQL, for one host: they share the work, and each piece of it is done once."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pytest
import requests
from sqlalchemy.engine import make_url

from gateway.database_url import DatabaseUrl
from gateway.repositories.sql import schema
from tests import own
from tests.paths import BIN
from tests.postgresql import PostgresServer
from tests.whole_gateway import Gateway, eventually, free_port, take_away

ANN = own.user("ann")


@dataclass
class Pair:
    """`first` and `second` differ in their port alone."""

    first: Gateway
    second: Gateway
    postgresql: PostgresServer
    database: str

    @property
    def gateways(self) -> dict[str, Gateway]:
        return {"first": self.first, "second": self.second}

    def serve(self, name: str) -> None:
        gateway = self.gateways[name]
        gateway.start(name, BIN / "gateway", "serve")

        def ready() -> bool:
            assert gateway.processes[name].poll() is None, gateway.log(name)
            try:
                return requests.get(f"{gateway.url}/readyz", timeout=20).ok
            except requests.ConnectionError:
                return False

        eventually(ready, seconds=60)

    def serve_those_that_died(self) -> None:
        """Another test may have killed one of them."""
        for name, gateway in self.gateways.items():
            if name not in gateway.processes:
                self.serve(name)

    def leader(self) -> str:
        """Who leads now: on a machine that halts for a while the lead may have changed before."""
        [name] = eventually(lambda: [name for name in self.gateways if self.leads(name)])
        return str(name)

    def leads(self, name: str) -> bool:
        """Since its last start: a process that was killed wrote no farewell."""
        log = self.gateways[name].log(name).rpartition("Starting gunicorn")[2]
        return log.count('"reaper leads"') > log.count('"reaper leads no more"')

    def ask(self, statement: str) -> list[tuple[object, ...]]:
        return self.postgresql.ask(statement, self.database)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, postgresql: PostgresServer) -> Iterator[Pair]:
    directory, url = tmp_path_factory.mktemp("gateways"), postgresql.create()
    schema.upgrade(DatabaseUrl(url))
    settings = {"GATEWAY_DB": url, "GATEWAY_STATE_DIR": str(directory / "state")}
    first = Gateway(directory, gpus="1xA30", settings=settings)
    second = replace(first, port=free_port(), processes={})
    pair = Pair(first, second, postgresql, str(make_url(url).database))
    first.start("router")
    for name in pair.gateways:
        pair.serve(name)
    eventually(lambda: (directory / "sshpiper/ssh_host_ed25519_key.pub").exists())
    yield pair
    for gateway in pair.gateways.values():
        take_away(gateway)


def test_what_one_opens_the_other_lists_and_closes(pair: Pair) -> None:
    session = pair.first.create(ANN)
    assert [other["session_id"] for other in pair.second.get("/sessions")["sessions"]] == [
        session["session_id"]
    ]
    assert pair.first.in_session(ANN, "echo $USER") == f"{ANN}\n"
    assert pair.second.delete(session["session_id"]).status_code == 204
    assert pair.first.leftovers(session["session_id"]) == []


def test_no_slice_is_given_twice(pair: Pair) -> None:
    def create(number: int) -> Any:
        gateway = pair.first if number % 2 else pair.second
        body = {"user_id": own.user(f"user{number}"), "mig_profile": "1g.6gb"}
        return requests.post(f"{gateway.url}/sessions", json=body, timeout=60)

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(create, range(12)))
        assert Counter(answer.status_code for answer in answers) == {201: 4, 503: 8}
        sessions = [answer.json() for answer in answers if answer.ok]
        assert len({session["gpu_uuid"] for session in sessions}) == 4
        list(pool.map(lambda session: pair.second.delete(session["session_id"]), sessions))
    assert [pair.first.leftovers(session["session_id"]) for session in sessions] == [[]] * 4


def test_when_the_leader_is_killed_the_other_takes_over_and_ends_a_lease_once(pair: Pair) -> None:
    leader = pair.leader()
    [survivor] = pair.gateways.keys() - {leader}
    session = pair.gateways[survivor].create(ANN)
    pair.gateways[leader].kill(leader)
    pair.ask(f"UPDATE sessions SET boot = NULL, expires_at = now() WHERE id = '{session['session_id']}'")
    gateway = pair.gateways[survivor]
    eventually(lambda: pair.leads(survivor), seconds=4)
    eventually(lambda: gateway.leftovers(session["session_id"]) == [])
    told = gateway.get(f"/sessions/{session['session_id']}/events")["events"]
    assert [event["what"] for event in told] == ["created", "opened", "closing", "ended"]
    assert "Traceback" not in gateway.log(survivor)


def test_two_gateways_have_one_line(pair: Pair) -> None:
    """Each takes requests, and the leader serves them; if it dies, the other one does."""
    pair.serve_those_that_died()
    blocker = pair.first.create(ANN, mig_profile="4g.24gb")
    users = [own.user(f"line{number}") for number in range(4)]
    made = []
    for number, user in enumerate(users):
        gateway = (pair.first, pair.second)[number % 2]
        body = {"user_id": user, "mig_profile": "4g.24gb", "wait_minutes": 600, "ttl_minutes": 1}
        answer = requests.post(f"{gateway.url}/sessions", json=body, timeout=30)
        assert answer.status_code == 202, answer.text
        made.append(answer.json())
    promised = [each["promised_at"] for each in made]
    assert promised == sorted(promised)
    lists = [gateway.get("/queue")["requests"] for gateway in (pair.first, pair.second)]
    assert lists[0] == lists[1]
    assert [each["user_id"] for each in lists[0]] == users
    leader = pair.leader()
    follower = {"first": "second", "second": "first"}[leader]
    pair.gateways[leader].kill(leader)
    other = pair.gateways[follower]
    assert other.delete(blocker["session_id"]).status_code == 204

    def first_is_served() -> bool:
        return bool(other.get(f"/sessions/{made[0]['session_id']}").get("status") == "active")

    while made:
        eventually(first_is_served, seconds=60)
        request = made.pop(0)
        assert other.delete(request["session_id"]).status_code == 204
    assert other.get("/queue") == {"requests": []}
    assert pair.ask("SELECT count(*) FROM waiting") == [(0,)]
    pair.serve(leader)
