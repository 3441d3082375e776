"""SSH logins through the embedded router, as `gateway events` shows them."""

import json
import subprocess
from typing import Any

from tests import own
from tests.whole_gateway import Gateway, eventually

USER = own.user("user123")


def day_of(gateway: Gateway) -> list[tuple[str, str]]:
    """What `gateway events --user` has of the user: actor and action, without the details."""
    done = gateway.run("events", "--user", USER, "--json")
    found: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    return [(event["actor"].partition("@")[0], event["what"]) for event in found]


def test_the_events_of_a_user_are_the_users_day(gateway: Gateway) -> None:
    session = gateway.create(USER)
    gateway.in_session(USER, "true")
    with_other_key = [*gateway.ssh(USER, "true")]
    with_other_key[4] = str(gateway.directory / "other.key")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", with_other_key[4]], check=True)
    assert subprocess.run(with_other_key, capture_output=True, timeout=30).returncode == 255
    eventually(lambda: ("router", "denied") in day_of(gateway))
    gateway.delete(session["session_id"])
    assert [what for _, what in day_of(gateway)] == [
        "created",
        "opened",
        "logged-in",
        "logged-out",
        "denied",
        "closing",
        "ended",
    ]
    print(gateway.run("events", "--user", USER).stdout)


def test_logins_while_the_gateway_is_away_are_recorded_when_it_is_back(gateway: Gateway) -> None:
    session = gateway.create(USER)
    before = day_of(gateway).count(("router", "logged-in"))
    gateway.kill("serve")
    gateway.in_session(USER, "true")
    gateway.serve()
    eventually(lambda: day_of(gateway).count(("router", "logged-in")) == before + 1)
    gateway.delete(session["session_id"])


def test_a_router_without_a_gateway_lets_users_in(gateway: Gateway) -> None:
    """Also if the place for its reports is not a socket."""
    session = gateway.create(USER)
    gateway.kill("serve")
    socket = gateway.directory / "sshpiper/logins.sock"
    socket.unlink()
    gateway.in_session(USER, "true")
    socket.mkdir()
    gateway.in_session(USER, "true")
    socket.rmdir()
    gateway.serve()
    gateway.in_session(USER, "true")
    gateway.delete(session["session_id"])
