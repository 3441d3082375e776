"""Every failpoint, killed and failed, over real Docker and sshd: `python -m tests.soak.sweep` is a table."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from gateway import failpoints
from gateway.domain.ssh_keys import make_pair
from tests import own
from tests.soak import agreement
from tests.whole_gateway import NETWORK, Gateway, eventually, running

_ELSEWHERE = failpoints.CLUSTER_CREATE + failpoints.CLUSTER_ROUTE + failpoints.CLUSTER_DELETE
CASES = [
    (place, action)
    for place in failpoints.PLACES
    if place not in _ELSEWHERE  # this gateway serves one host
    for action in sorted(failpoints.ACTIONS, reverse=True)
]
_WEBHOOK = "sweep"
USER, WITNESS, BLOCKER = own.user("unlucky"), own.user("witness"), own.user("blocker")


@dataclass(frozen=True)
class Outcome:
    """`answer` is the request's status or None when it had none, `remained` what did not agree after it,
    `seconds` how long after the next start all did: 0 when the running gateway saw to it."""

    place: str
    action: str
    answer: int | None
    remained: list[str]
    seconds: float

    def __str__(self) -> str:
        remained = "; ".join(line.partition(": ")[2] or line for line in self.remained) or "nothing"
        answer = self.answer or "none"
        return f"| {self.place} | {self.action} | {answer} | {self.seconds:.2f} | {remained} |"


class Sweep:
    """One gateway for all cases, with a healthy session that lives through them."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.healthy = gateway.create(WITNESS, mig_profile="2g.10gb")
        self.public_key = self._make_key()

    def fail(self, place: str, action: str) -> Outcome:
        """Fail there and see all of it agree; raises where it does not after one tick, which a start is."""
        if place in failpoints.LINE:
            return self._fail_in_line(place, action)
        self._restart(f"{place}={action}")
        answer = self._request(place, action)
        remained = agreement.problems(self._look())
        if action == "error" and place in failpoints.WEBHOOK:
            eventually(self._is_delivered, seconds=20)
        if action == "error" and not remained:
            return Outcome(place, action, answer, [], 0)
        began = time.monotonic()
        self._restart()
        eventually(self._agrees, seconds=10)
        if place in failpoints.WARN:
            eventually(self._is_warned, seconds=10)
        if place in failpoints.WEBHOOK:
            eventually(self._is_delivered, seconds=20)
        return Outcome(place, action, answer, remained, time.monotonic() - began)

    def _fail_in_line(self, place: str, action: str) -> Outcome:
        """The user waits behind another one, and gets the session after that one's end."""
        blocker = self.gateway.create(BLOCKER, mig_profile="7g.40gb")["session_id"]
        wanted: dict[str, Any] = {
            "user_id": USER,
            "mig_profile": "7g.40gb",
            "ssh_public_keys": [self.public_key],
        }
        wanted["wait_minutes"] = 60
        if place != "after-line-join":
            assert self._ask("POST", "/sessions", json=wanted) == 202
        before = "after-container-start=error," if place == "after-put-back" else ""
        self._restart(f"{before}{place}={action}")
        trace = "SIGKILL" if action == "kill" else "failed this step on purpose"
        seen, answer = self.gateway.log("serve").count(trace), None
        if place == "after-line-join":
            answer = self._ask("POST", "/sessions", json=wanted)
        elif place == "after-line-move":
            [request] = self.gateway.get("/queue")["requests"]
            answer = self._ask("PUT", f"/queue/{request['session_id']}", json={"priority": 5})
        else:
            self._ask("DELETE", f"/sessions/{blocker}")
        eventually(lambda: self.gateway.log("serve").count(trace) > seen or answer == 503, seconds=20)
        remained = agreement.problems(self._look())
        began = time.monotonic()
        self._restart()
        if place in ("after-line-join", "after-line-move"):
            assert [each["user_id"] for each in self.gateway.get("/queue")["requests"]] == [USER]
            self._ask("DELETE", f"/sessions/{blocker}")
        eventually(lambda: self._is_opened() and self._agrees(), seconds=30)
        return Outcome(place, action, answer, remained, time.monotonic() - began)

    def _is_opened(self) -> bool:
        found = [each for each in self.gateway.get("/sessions")["sessions"] if each["user_id"] == USER]
        return bool(found) and found[0]["status"] == "active" and not self.gateway.get("/queue")["requests"]

    def require_the_healthy_one_unharmed(self) -> None:
        row = self._look().rows[self.healthy["session_id"]]
        before = self.healthy["container_id"], self.healthy["gpu_uuid"]
        assert (row["container_id"], row["gpu_uuid"]) == before
        assert self.gateway.in_session(WITNESS, "echo $NVIDIA_VISIBLE_DEVICES").strip() == before[1]

    def require_that_the_user_can_create_again(self) -> None:
        """A session that was whole when the process died is reached by its user, and deleted, before."""
        for session_id in self._look().rows.keys() - {self.healthy["session_id"]}:
            assert self.gateway.in_session(USER, "id -un").strip() == USER
            assert self.gateway.delete(session_id).status_code == 204
        again = self.gateway.create(USER, ssh_public_keys=[self.public_key])
        assert agreement.problems(self._look()) == []
        assert self.gateway.delete(again["session_id"]).status_code == 204
        assert self._look().rows.keys() == {self.healthy["session_id"]}
        assert self._agrees()

    def _look(self) -> agreement.Places:
        return agreement.look(self.gateway.directory, NETWORK)

    def _agrees(self) -> bool:
        return not agreement.problems(self._look())

    def _restart(self, failpoints: str = "") -> None:
        self.gateway.kill("serve")
        began = time.time()
        self.gateway.serve(GATEWAY_FAILPOINTS=failpoints)
        # The first tick must not meet the failpoint in the place of the request.
        eventually(lambda: (self.gateway.directory / "state/reaper.lock").stat().st_mtime > began)

    def _request(self, place: str, action: str) -> int | None:
        """The request that comes by the place, and its status. Nobody asks for a warning."""
        if place in failpoints.CREATE:
            return self._create()
        if place in failpoints.EXTEND:
            return self._create_and("POST", "/extend", json={"minutes": 60})
        if place in failpoints.WARN:
            self._create_and_wait_for_a_warning(action)
            return None
        if place in failpoints.WEBHOOK:
            self._set_webhook_and_wait(action)
            return None
        return self._create_and("DELETE", "")

    def _create(self) -> int | None:
        return self._ask("POST", "/sessions", json={"user_id": USER, "ssh_public_keys": [self.public_key]})

    def _make_key(self) -> str:
        """Of a user who logs in to a session that was made, while the answer was lost."""
        pair, directory = make_pair(), self.gateway.directory
        (directory / f"{USER}.key").touch(mode=0o600)
        (directory / f"{USER}.key").write_text(pair.private)
        (directory / f"{USER}.known_hosts").write_bytes((directory / f"{WITNESS}.known_hosts").read_bytes())
        return pair.public

    def _create_and(self, method: str, path: str, **body: Any) -> int | None:
        session_id = self.gateway.create(USER, ssh_public_keys=[self.public_key])["session_id"]
        return self._ask(method, f"/sessions/{session_id}{path}", **body)

    def _create_and_wait_for_a_warning(self, action: str) -> None:
        """gunicorn's log tells that the worker was killed, and the gateway's that the step failed."""
        session_id = self.gateway.create(USER, ssh_public_keys=[self.public_key])["session_id"]
        trace = "SIGKILL" if action == "kill" else "failed this step on purpose"
        before = self.gateway.log("serve").count(trace)
        self.gateway.expire(session_id, seconds=590)
        eventually(lambda: self.gateway.log("serve").count(trace) > before)

    def _set_webhook_and_wait(self, action: str) -> None:
        """The webhook gets the event of its own creation. Nobody is there to receive it, so it fails."""
        trace = "SIGKILL" if action == "kill" else "failed this step on purpose"
        before = self.gateway.log("serve").count(trace)
        body = {"url": "https://receiver.invalid/", "events": ["webhook.changed"]}
        self._ask("PUT", f"/webhooks/{_WEBHOOK}", json=body)
        eventually(lambda: self.gateway.log("serve").count(trace) > before)

    def _is_delivered(self) -> bool:
        """Attempted, on record, and then taken away, so that the next case begins without it."""
        deliveries = self.gateway.get(f"/webhooks/{_WEBHOOK}/deliveries")["deliveries"]
        if not [each for each in deliveries if each["attempts"] > 0 and each["error"]]:
            return False
        return self._ask("DELETE", f"/webhooks/{_WEBHOOK}") == 204

    def _is_warned(self) -> bool:
        """On record, and for later logins."""
        [session_id] = self._look().rows.keys() - {self.healthy["session_id"]}
        events = self.gateway.get(f"/sessions/{session_id}/events")["events"]
        files = self.gateway.directory / "state/sessions" / session_id
        told = [event for event in events if event["detail"] == "10 min, nobody connected"]
        return bool(told) and "Ends soon" in (files / "etc/motd").read_text()

    def _ask(self, method: str, path: str, **body: Any) -> int | None:
        try:
            return requests.request(method, self.gateway.url + path, timeout=60, **body).status_code
        except requests.ConnectionError:
            return None


@contextmanager
def sweeping(directory: Path) -> Iterator[Sweep]:
    with running(Gateway(directory)) as gateway:
        yield Sweep(gateway)


def main() -> None:
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory, sweeping(Path(directory)) as sweep:
        print("| failpoint | action | answer | agreed after (s) | what remained until the restart |")
        print("|---|---|---|---|---|")
        for place, action in CASES:
            print(sweep.fail(place, action), flush=True)
            sweep.require_the_healthy_one_unharmed()
            sweep.require_that_the_user_can_create_again()
    print(f"{len(CASES)} cases, all agree, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
