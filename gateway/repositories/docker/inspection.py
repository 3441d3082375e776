"""The state of the sessions' containers in Docker: whether they run, why they ended, and how they deviate
from their plans. Also repairs deviations."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from docker.errors import NotFound

from gateway.domain.containers import Deviation, End, deviations
from gateway.domain.observation import Container
from gateway.domain.states import Reason
from gateway.errors import NetworkUnavailable
from gateway.repositories.docker import labels, setup
from gateway.repositories.docker.client import Docker
from gateway.repositories.docker.namespace import Namespace

ENDED = frozenset({"exited", "dead"})
ALIVE = frozenset({"running", "paused"})
_NEVER = "0001-01-01"  # Docker's date for an event that has not happened
_ACTIONS = ("kill", "stop", "restart")
_LETHAL = frozenset({"9", "15"})  # signals, as Docker's events number them
_STOP_TIMEOUT = timedelta(minutes=1)  # between the signal of `docker stop` and the end
# `docker restart` reports "restart" after the container has ended and started again.
_RESTART_SECONDS = 1.0


class Inspection:
    """The containers on `network`. Docker's errors are raised unchanged. `bandwidth` as in `Namespace`.

    A process reads the rules in a container's network namespace once: its user cannot change them.
    """

    def __init__(self, docker: Docker, network: str, bandwidth: int | None = None) -> None:
        self._docker = docker
        self._network = network
        self._bandwidth = bandwidth
        self._closed: set[str] = set()  # ids of containers whose namespace has the gateway's rules

    def containers(
        self, ids: Sequence[str], is_own: Callable[[Mapping[str, str]], bool]
    ) -> Sequence[Container]:
        """Return the containers of `ids` that still exist."""
        found = [each for each in map(self._inspect, ids) if each]
        self._closed &= {each["Id"] for each in found}
        reasons = self._reasons([each for each in found if _has_ended(each)])
        return [
            Container(
                each["Id"],
                each["Config"]["Labels"][labels.SESSION],
                ended=each["Id"] in reasons,
                foreign=not is_own(each["Config"]["Labels"]),
                reason=reasons.get(each["Id"], Reason.USER_EXIT),
                deviations=() if each["Id"] in reasons else self._deviations(each),
            )
            for each in found
        ]

    def close_namespace(self, container_id: str, *, is_new: bool = False) -> None:
        """Load the gateway's rules into the container's network namespace. Raises `NetworkUnavailable`."""
        self.namespace(container_id).close(is_new=is_new)
        self._closed.add(container_id)

    def namespace(self, container_id: str) -> Namespace:
        return self._namespace(self._docker.client.api.inspect_container(container_id))

    def _namespace(self, found: Mapping[str, Any]) -> Namespace:
        return Namespace(found, self._network, self._bandwidth)

    def repair(self, container_id: str) -> None:
        """Connect the container as planned and load the rules into its network namespace."""
        found = self._inspect(container_id)
        planned = setup.planned(found) if found else None
        if found is None or found["State"]["Status"] not in ALIVE:
            return
        if planned:
            self._connect(container_id, planned.networks, setup.shown(found).networks)
        self.close_namespace(container_id)

    def _connect(self, container_id: str, planned: Mapping[str, str], shown: Mapping[str, str]) -> None:
        api = self._docker.client.api
        for network, address in shown.items():
            if planned.get(network) != address:
                api.disconnect_container_from_network(container_id, network, force=True)
        for network, address in planned.items():
            if shown.get(network) != address:
                api.connect_container_to_network(container_id, network, ipv4_address=address)

    def _inspect(self, container_id: str) -> dict[str, Any] | None:
        with suppress(NotFound):  # removed since it was listed
            found: dict[str, Any] = self._docker.client.api.inspect_container(container_id)
            return found
        return None

    def _deviations(self, found: Mapping[str, Any]) -> Sequence[Deviation]:
        if found["State"]["Status"] not in ALIVE:  # created, and not started yet
            return ()
        shown = setup.shown(found)
        planned = setup.planned(found) or shown
        is_paused = found["State"]["Paused"]
        return list(deviations(planned, shown, is_paused=is_paused, is_closed=self._is_closed(found)))

    def _is_closed(self, found: Mapping[str, Any]) -> bool:
        """If the gateway cannot enter the namespace, its state is unknown, and no deviation is reported."""
        if found["Id"] in self._closed:
            return True
        with suppress(NetworkUnavailable):
            if not self._namespace(found).is_closed():
                return False
            self._closed.add(found["Id"])
        return True

    def _reasons(self, ended: Sequence[Mapping[str, Any]]) -> Mapping[str, Reason]:
        actions = self._actions(ended) if ended else {}
        return {
            each["Id"]: End(
                exit_code=each["State"]["ExitCode"],
                oom_killed=each["State"]["OOMKilled"],
                actions=actions.get(each["Id"], ()),
                was_restarted=each["State"]["Running"],
            ).reason
            for each in ended
        }

    def _actions(self, ended: Sequence[Mapping[str, Any]]) -> Mapping[str, set[str]]:
        """Return the requests to Docker that preceded the end of each container."""
        ends = {each["Id"]: _time(each["State"]["FinishedAt"]) for each in ended}
        latest = max(ends.values()).timestamp() + _RESTART_SECONDS
        events = self._docker.client.api.events(
            since=int((min(ends.values()) - _STOP_TIMEOUT).timestamp()),
            until=math.ceil(max(time.time(), latest)),  # Docker ends the response at this time
            filters={
                "type": "container",
                "event": list(_ACTIONS),
                "label": [labels.SESSION, f"{labels.NETWORK}={self._network}"],
            },
            decode=True,
        )
        found: dict[str, set[str]] = {id: set() for id in ends}
        for event in events:
            id, signal = event["Actor"]["ID"], event["Actor"]["Attributes"].get("signal", "9")
            at = datetime.fromtimestamp(event["time"], UTC)
            if id in found and signal in _LETHAL and at >= ends[id] - _STOP_TIMEOUT:
                found[id].add(event["Action"])
        return found


def _has_ended(found: Mapping[str, Any]) -> bool:
    """Whether the session is over. A running container that ended before was restarted."""
    state = found["State"]
    return state["Status"] in ENDED or (state["Running"] and not state["FinishedAt"].startswith(_NEVER))


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
