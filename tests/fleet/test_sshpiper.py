"""Routers of a cluster: SSHPiper with its Kubernetes plugin, and the lobby behind it.

SSHPiper runs where SSHPIPERD and SSHPIPER_KUBERNETES name its daemon and that plugin. Without them an ssh
client with the key of the lobby takes SSHPiper's part, for users without a session.
"""

import os
import subprocess
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.database_url import DatabaseUrl
from gateway.repositories.sql import schema
from tests import own
from tests.fleet.gateways import PIPES, ROUTES, SECONDS, prepare, replica
from tests.fleet.node import Node
from tests.postgresql import PostgresServer
from tests.whole_gateway import Gateway, eventually, free_port

ANN, BEN = own.user("ann"), own.user("ben")
WHOLE = "7g.40gb"
_HAS_SSHPIPER = bool(os.environ.get("SSHPIPERD") and os.environ.get("SSHPIPER_KUBERNETES"))
_NEEDS_SSHPIPER = pytest.mark.skipif(
    not _HAS_SSHPIPER, reason="SSHPIPERD and SSHPIPER_KUBERNETES do not name SSHPiper"
)


class Fleet:
    """A gateway whose users arrive at SSHPiper, or at the lobby without it."""

    def __init__(self, node: Node, postgresql: PostgresServer, directory: Path) -> None:
        url, self.lobby_port = postgresql.create(), free_port()
        schema.upgrade(DatabaseUrl(url))
        prepare(node.plane)
        lobby = {"GATEWAY_LOBBY": f"127.0.0.1:{self.lobby_port}"}
        self.gateway = replica(node, postgresql, url, directory, **lobby)
        (directory / "sshpiper").mkdir()
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", self._host_key], check=True
        )
        self.gateway.serve()
        self._start_lobby(node)
        if _HAS_SSHPIPER:
            self._start_sshpiper(node)

    @property
    def _host_key(self) -> Path:
        return self.gateway.directory / "sshpiper/ssh_host_ed25519_key"

    def _start_lobby(self, node: Node) -> None:
        """As its pod does: with two keys of the Secret that the gateway has made."""
        directory = self.gateway.directory / "lobby"
        directory.mkdir()
        made = node.plane.api().get("v1/secrets", "lobby", ROUTES)
        assert made, "the gateway has made no Secret"
        for name in ("lobby_key.pub", "ssh_host_ed25519_key", "ssh_host_ed25519_key.pub", "ssh-privatekey"):
            (directory / name).touch(mode=0o600)
            (directory / name).write_bytes(b64decode(made["data"][name]))
        self.lobby = Gateway(
            directory,
            ssh_port=self.lobby_port,
            settings={
                "KUBECONFIG": str(node.plane.kubeconfig_of("router", ROUTES)),
                "GATEWAY_PIPER_CONFIG": str(directory / "pipe.yaml"),
                "GATEWAY_ROUTER_LOBBY_KEY": str(directory / "lobby_key.pub"),
                "GATEWAY_ROUTER_HOST_KEY": str(directory / "ssh_host_ed25519_key"),
            },
        )
        self.lobby.start("mirror-pipes")
        self.lobby.start("router")

    def _start_sshpiper(self, node: Node) -> None:
        environment = {
            "SSHPIPERD_LOGIN_GRACE_TIME": "1h",
            "KUBECONFIG": str(node.plane.kubeconfig_of("router", ROUTES)),
        }
        self.gateway.start(
            "sshpiper",
            os.environ["SSHPIPERD"],
            *("--address", "127.0.0.1", "--port", str(self.gateway.ssh_port)),
            *("--server-key", self._host_key, "--drop-hostkeys-message"),
            os.environ["SSHPIPER_KUBERNETES"],
            **environment,
        )

    def end(self) -> None:
        for gateway in (self.gateway, self.lobby):
            for name in list(gateway.processes):
                gateway.kill(name)

    def ssh(self, user: str, *command: str) -> list[str]:
        """Of a user without a session."""
        if _HAS_SSHPIPER:
            return self.gateway.ssh(user, *command)
        line = self.gateway.ssh(user, *command)
        piper = str(self.lobby.directory / "ssh-privatekey")
        line[line.index("-i") + 1] = piper
        line[line.index("-p") + 1] = str(self.lobby_port)
        known = self.lobby.directory / "known_hosts"
        host_key = (self.lobby.directory / "ssh_host_ed25519_key.pub").read_text()
        known.write_text(f"[127.0.0.1]:{self.lobby_port} {host_key}\n")
        place = next(number for number, word in enumerate(line) if word.startswith("UserKnownHostsFile="))
        line[place] = f"UserKnownHostsFile={known}"
        return line

    def says(self, user: str) -> str:
        """What a user reads who does not get in."""
        done = subprocess.run(self.ssh(user, "true"), capture_output=True, text=True, timeout=60)
        return done.stderr if done.returncode == 255 else ""

    def paths_of(self, user: str) -> set[str]:
        """Of the user's Pipes: `s` to a session, `l` into the lobby."""
        found = self.gateway.plane.api().list(PIPES, ROUTES)
        mine = [each for each in found if each["spec"]["from"][0]["username"] == user]
        return {each["metadata"]["name"][0] for each in mine}


@pytest.fixture(scope="module")
def fleet(
    node: Node, postgresql: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    made = Fleet(node, postgresql, tmp_path_factory.mktemp("fleet") / "gateway")
    yield made
    made.end()


@pytest.fixture
def whole(fleet: Fleet) -> Iterator[dict[str, Any]]:
    """Ann has the only GPU."""
    made = fleet.gateway.create(ANN, mig_profile=WHOLE)
    yield made
    fleet.gateway.delete(made["session_id"])
    eventually(lambda: not fleet.gateway.leftovers(made["session_id"]), SECONDS)


def test_a_user_whose_session_has_ended_reads_why(fleet: Fleet) -> None:
    made = fleet.gateway.create(ANN, mig_profile="1g.5gb")
    assert fleet.paths_of(ANN) == {"s"}
    assert fleet.gateway.delete(made["session_id"]).status_code == 204
    assert fleet.paths_of(ANN) == {"l"}
    eventually(lambda: "Your session (1g.5gb) ended" in fleet.says(ANN), SECONDS)


def test_a_session_takes_the_place_of_the_lobby(fleet: Fleet) -> None:
    for _ in range(2):
        made = fleet.gateway.create(ANN, mig_profile="1g.5gb")
        assert fleet.paths_of(ANN) == {"s"}
        assert fleet.gateway.delete(made["session_id"]).status_code == 204
    assert fleet.paths_of(ANN) == {"l"}


def test_ssh_waits_in_line_behind_sshpiper_and_gets_in(fleet: Fleet) -> None:
    other = fleet.gateway.create(ANN, mig_profile=WHOLE)
    fleet.gateway.wait_in_line(BEN, mig_profile=WHOLE)
    eventually(lambda: fleet.paths_of(BEN) == {"l"}, SECONDS)
    login = subprocess.Popen(
        fleet.ssh(BEN, "id -un; nvidia-smi -L"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with pytest.raises(subprocess.TimeoutExpired):
        login.wait(timeout=5)
    assert fleet.gateway.delete(other["session_id"]).status_code == 204
    output, errors = login.communicate(timeout=SECONDS)
    assert login.returncode == 0, errors
    assert output.splitlines()[0] == BEN
    assert output.count("MIG-") == 1
    assert "You are 1st in line" in errors
    eventually(lambda: fleet.paths_of(BEN) == {"s"}, SECONDS)
    [session] = fleet.gateway.get(f"/sessions?user_id={BEN}")["sessions"]
    assert fleet.gateway.delete(session["session_id"]).status_code == 204


@_NEEDS_SSHPIPER
@pytest.mark.may_be_skipped
def test_sshpiper_leads_its_users_into_their_sessions(fleet: Fleet, whole: dict[str, Any]) -> None:
    eventually(lambda: not fleet.gateway.refused(ANN), SECONDS)
    assert fleet.gateway.in_session(ANN, "nvidia-smi -L").count("MIG-") == 1


@_NEEDS_SSHPIPER
@pytest.mark.may_be_skipped
def test_sshpiper_lets_nobody_in_without_the_key_of_the_user(
    fleet: Fleet, whole: dict[str, Any], tmp_path: Path
) -> None:
    eventually(lambda: not fleet.gateway.refused(ANN), SECONDS)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    line = fleet.gateway.ssh(ANN, "true")
    line[line.index("-i") + 1] = str(tmp_path / "key")
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert done.returncode == 255
    assert "Permission denied" in done.stderr
