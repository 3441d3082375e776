"""What a storm does to a gateway and to the machine beneath it, one act at a time."""

import os
import random
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pynvml
import requests

from gateway import failpoints
from gateway.domain.ssh_keys import make_pair
from tests import own
from tests.fakes.faults import Faults
from tests.own_docker import OwnDocker
from tests.soak import agreement
from tests.soak.churn import FAULTS
from tests.whole_gateway import NETWORK, Gateway

USERS = [own.user(f"storm{number}") for number in range(10)]
WITNESS = own.user("witness")
PROFILES = ["1g.5gb", "1g.5gb", "2g.10gb", "3g.20gb"]
LARGE = ["3g.20gb", "4g.20gb"]  # for these, some have to wait
# How often each act is chosen, in relation to the others.
ACTS = {
    "create": 36,
    "wait": 10,
    "delete": 12,
    "expire": 4,
    "log_in": 6,
    "kill_worker": 3,
    "kill_gateway": 1,
    "kill_router": 1,
    "arm_failpoint": 2,
    "break_driver": 5,
    "hold_slice": 2,
    "lose_gpu": 1,
    "hide_gpus": 1,
    "list_nothing": 2,
    "lose_handles": 2,
    "time_out": 2,
    "leave_remnants": 2,
    "close_devices": 2,
    "kill_container": 2,
    "stop_container": 2,
    "remove_container": 1,
    "corrupt_pipe_file": 1,
    "remove_firewall_tables": 2,
    "restart_docker": 1,
}
_EXPECTED = {
    "create": {201, 409, 410, 503, 507},  # 410: somebody deleted it before it was open
    "wait": {201, 202, 409, 410, 503, 507},
    "delete": {202, 204, 404, 410, 503},
}


class Ground:
    """A gateway, its machine, and a witness: a session that nothing is done to, which must live through all.

    `docker` is one that may be restarted, None when it is others' too."""

    def __init__(
        self, gateway: Gateway, faults: Faults, chance: random.Random, docker: OwnDocker | None
    ) -> None:
        self.gateway, self.faults, self.chance, self.docker = gateway, faults, chance, docker
        self.events: Counter[str] = Counter()
        self._counting = threading.Lock()
        self.witness = gateway.create(WITNESS, mig_profile="1g.5gb")
        pair = make_pair()
        self._public_key = pair.public
        known = (gateway.directory / f"{WITNESS}.known_hosts").read_bytes()
        for user in USERS:
            (gateway.directory / f"{user}.key").touch(mode=0o600)
            (gateway.directory / f"{user}.key").write_text(pair.private)
            (gateway.directory / f"{user}.known_hosts").write_bytes(known)

    def look(self) -> agreement.Places:
        return agreement.look(self.gateway.directory, NETWORK)

    def do(self, act: str) -> None:
        self._count(act)
        getattr(self, f"_{act}")()

    def request(self, act: str, seed: float) -> None:
        """`create`, `wait`, `delete` or `log_in`, from a thread; an answer that should not be is an error."""
        chance = random.Random(seed)
        with suppress(requests.ConnectionError, requests.Timeout):
            getattr(self, f"_{act}")(chance)
            return
        self._count(f"{act} without an answer")

    def mend(self) -> None:
        """Everything works again, and the gateway is started afresh, which is a tick."""
        self.gateway.kill("serve")
        self.faults.clear()
        self._mend_pipe_file()
        self.gateway.serve()
        _wait_for_the_door(self.gateway.ssh_port)  # of the router, if it was started just now

    def require_reachable(self) -> None:
        """By ssh: the witness, in its own container, and one other."""
        rows = self.look().rows
        row = rows[self.witness["session_id"]]
        assert (row["container_id"], row["gpu_uuid"]) == (
            self.witness["container_id"],
            self.witness["gpu_uuid"],
        )
        others = [row["user_id"] for row in rows.values() if row["user_id"] != WITNESS]
        for user in [WITNESS, *others[:1]]:
            assert self.gateway.in_session(user, "id -un").strip() == user

    def delete_all(self) -> None:
        for session_id in [*self._waiting_ids(), *self._session_ids()]:
            self.gateway.delete(session_id)

    def _create(self, chance: random.Random) -> None:
        body = {"user_id": chance.choice(USERS), "mig_profile": chance.choice(PROFILES)}
        self._ask("create", "POST", "/sessions", {**body, "ssh_public_keys": [self._public_key]})

    def _wait(self, chance: random.Random) -> None:
        body = {"user_id": chance.choice(USERS), "mig_profile": chance.choice(LARGE), "wait_minutes": 30}
        self._ask("wait", "POST", "/sessions", {**body, "ssh_public_keys": [self._public_key]})

    def _delete(self, chance: random.Random) -> None:
        if ids := [*self._session_ids(), *self._waiting_ids()]:
            self._ask("delete", "DELETE", f"/sessions/{chance.choice(ids)}")

    def _ask(self, act: str, method: str, path: str, body: object = None) -> None:
        _wait_for_the_door(self.gateway.port)
        answer = requests.request(method, self.gateway.url + path, json=body, timeout=60)
        assert answer.status_code in _EXPECTED[act], f"{method} {path}: {answer.status_code} {answer.text}"
        self._count(f"{act} {answer.status_code}")

    def _log_in(self, chance: random.Random) -> None:
        rows = self._rows()
        user = chance.choice([row["user_id"] for row in rows.values()]) if rows else WITNESS
        done = subprocess.run(self.gateway.ssh(user, "true"), capture_output=True, timeout=60)
        self._count("log_in" if done.returncode == 0 else "log_in refused")

    def _expire(self) -> None:
        if ids := self._session_ids():
            with suppress(sqlite3.OperationalError):  # the gateway is writing
                self.gateway.expire(self.chance.choice(ids))

    def _kill_worker(self) -> None:
        if workers := list(_children(self.gateway.processes["serve"].pid)):
            with suppress(ProcessLookupError):
                os.kill(self.chance.choice(workers), signal.SIGKILL)

    def _kill_gateway(self) -> None:
        self.gateway.kill("serve")
        self.gateway.start("serve")

    def _kill_router(self) -> None:
        self.gateway.kill("router")
        self.gateway.start("router")

    def _arm_failpoint(self) -> None:
        place = self.chance.choice(failpoints.CREATE + failpoints.DELETE)
        self.gateway.kill("serve")
        failing = f"{place}={self.chance.choice(failpoints.ACTIONS)}"
        self.gateway.start("serve", GATEWAY_FAILPOINTS=failing)

    def _break_driver(self) -> None:
        self.faults.inject(self.chance.choice(FAULTS))

    def _hold_slice(self) -> None:
        self.faults.hold(self.chance.randrange(2), self.chance.randrange(8), "nv-hostengine")

    def _lose_gpu(self) -> None:
        self.faults.lose(self.chance.randrange(2), pynvml.NVML_ERROR_GPU_IS_LOST)

    def _hide_gpus(self) -> None:
        self.faults.hide_devices()

    def _list_nothing(self) -> None:
        self.faults.list_nothing(times=self.chance.choice([1, 11, 60]))

    def _lose_handles(self) -> None:
        code = self.chance.choice([pynvml.NVML_ERROR_INVALID_ARGUMENT, pynvml.NVML_ERROR_NOT_FOUND])
        self.faults.lose_handles(code, times=self.chance.randint(1, 5))

    def _time_out(self) -> None:
        self.faults.time_out(late=False, times=1)

    def _leave_remnants(self) -> None:
        self.faults.leave_remnants(times=self.chance.randint(1, 3))

    def _close_devices(self) -> None:
        """Of one session, as a reload of systemd does."""
        others = [row["gpu_uuid"] for row in self._rows().values() if row["user_id"] != WITNESS]
        if devices := [device for device in others if device]:
            self.faults.close_devices(self.chance.choice(devices))

    def _kill_container(self) -> None:
        self._docker("kill")

    def _stop_container(self) -> None:
        self._docker("stop", "--time", "1")

    def _remove_container(self) -> None:
        self._docker("rm", "--force")

    def _docker(self, *command: str) -> None:
        if ids := self._session_ids():
            containers = agreement.look_at_containers(NETWORK)
            if container := containers.get(self.chance.choice(ids)):
                subprocess.run(["docker", *command, container[0]], capture_output=True, timeout=60)

    def _corrupt_pipe_file(self) -> None:
        path = self._pipe_file
        damage = self.chance.choice(["garbage", "cut", "open to all"])
        text = path.read_text()
        if damage == "open to all":
            path.chmod(0o644)
        elif damage == "cut":
            path.write_text(text[: len(text) // 2])
        else:
            path.write_text(text.replace("# END pipes", "garbage: [\n# END pipes"))

    def _mend_pipe_file(self) -> None:
        """As an administrator would who keeps no copy: an empty one."""
        self._pipe_file.write_text('version: "1.0"\npipes:\n')
        self._pipe_file.chmod(0o600)

    @property
    def _pipe_file(self) -> Path:
        return self.gateway.directory / "sshpiper/pipe.yaml"

    def _remove_firewall_tables(self) -> None:
        for family in ("inet", "bridge"):
            subprocess.run(["nft", "delete", "table", family, f"gateway_{NETWORK}"], capture_output=True)

    def _restart_docker(self) -> None:
        if self.docker:
            self.docker.restart(self.chance.choice([signal.SIGKILL, signal.SIGTERM]))

    def _session_ids(self) -> list[str]:
        """Of all but the witness, as the database has them."""
        return sorted(id for id, row in self._rows().items() if row["user_id"] != WITNESS)

    def _waiting_ids(self) -> list[str]:
        with suppress(sqlite3.OperationalError):
            return sorted(agreement.look_at_line(self.gateway.directory))
        return []

    def _rows(self) -> dict[str, dict[str, Any]]:
        with suppress(sqlite3.OperationalError):
            return agreement.look_at_rows(self.gateway.directory)
        return {}

    def _count(self, event: str) -> None:
        with self._counting:
            self.events[event] += 1


def _wait_for_the_door(port: int) -> None:
    """What is just being started has nothing to tell."""
    for _ in range(50):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.1)


def _children(pid: int) -> Iterator[int]:
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        yield from map(int, path.read_text().split())
