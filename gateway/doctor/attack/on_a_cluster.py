"""The attacks on the sessions of a cluster: by SSH with the router's key, and by what its API knows."""

import os
from collections.abc import Mapping, Sequence

from gateway.api.limits import REQUESTS_OF_A_SESSION
from gateway.doctor.attack.ground import LiveSession, record_of
from gateway.doctor.attack.probe import Targets
from gateway.doctor.attack.targets import filler_mib
from gateway.domain.plan import SSH_PORT
from gateway.errors import Unavailable
from gateway.repositories.kubernetes.api import NODES, PODS, Api, Object
from gateway.repositories.kubernetes.logins import Login, Logins
from gateway.repositories.kubernetes.objects import name_of
from gateway.repositories.kubernetes.service_url import ServiceUrl
from gateway.settings import Settings

# Of what listens on nodes and control planes: sshd, DNS, web servers, etcd, the API server, the kubelet, …
_PORTS = (22, 53, 80, 111, 443, SSH_PORT, 2375, 2379, 2380, 6443, 8443, 9100)
_PORTS_OF_KUBERNETES = (10248, 10249, 10250, 10255, 10256, 10257, 10259)
_MOST_NODES = 4
_MOST_PROCESSES = 5000


class Cluster:
    untried: Mapping[str, str] = {
        "learn_mac_address": "network policies are about IP; nodes choose how they connect their pods",
        "ask_dockers_resolver": "a cluster has no resolver of Docker's",
        "fill_tcp_buffers": "Kubernetes has no limit for them; with cgroup v2 they count as memory",
        "many_files": "the directories that a session can write to are in its memory, which is limited",
        "flood_log": "the kubelet bounds the log by containerLogMaxSize",
        "linger": "the kubelet reports the end of a pod once no process of it runs",
    }

    def __init__(self, settings: Settings, api: Api, logins: Logins) -> None:
        self._settings = settings
        self._proxy = ServiceUrl(api, settings.egress_service)
        self._api = api
        self._logins = logins

    def targets(self, victim: LiveSession, attacker: LiveSession) -> Targets:
        own, other = self._pod(attacker), self._pod(victim)
        settings, address = self._settings, other["status"]["podIP"]
        return Targets(
            ssh_port=SSH_PORT,
            neighbours=[each["ip"] for each in other["status"].get("podIPs") or [{"ip": address}]],
            neighbour_names=[f"{address.replace('.', '-')}.{settings.namespace_sessions}.pod.cluster.local"],
            neighbour_sessions=[victim["session_id"]],
            users=[victim["ssh_user"]],
            hosts=self._hosts(own, other),
            proxies=[url.removeprefix("http://")] if (url := self._proxy.url()) else [],
            links=[],
            ports=[*_PORTS, *_PORTS_OF_KUBERNETES],
            refusals=False,
            memory_mib=round(1.25 * _memory_mib(own)),
            tcp_mib=0,
            filler_mib=filler_mib(settings),
            processes=_MOST_PROCESSES,
            door_burst=REQUESTS_OF_A_SESSION,
        )

    def run(self, session: LiveSession, command: Sequence[str]) -> tuple[int, str]:
        row = record_of(self._settings.db, session)
        login = Login(str(row.address), row.user_id, row.private_key, row.host_key)
        return 0, self._logins.run(login, command)

    def log_size(self, session: LiveSession) -> int:
        raise Unavailable("The gateway may not read logs of pods.")

    def processes(self, session: LiveSession) -> int:
        return 0

    def remove_home(self, user_id: str) -> None:
        """The gateway may not remove volume claims. The next attack uses the same one."""

    def remains(self, user_id: str) -> str:
        return "its home stays for the next attack"

    def _hosts(self, own: Object, other: Object) -> list[str]:
        """The API server as pods know it, the cluster's usual resolver, and some nodes: first those of both
        sessions."""
        nodes = [pod["status"].get("hostIP") for pod in (own, other)]
        for node in self._api.list(NODES):
            addresses = (node.get("status") or {}).get("addresses") or ()
            nodes += [each["address"] for each in addresses if each["type"] == "InternalIP"]
        service = os.environ.get("KUBERNETES_SERVICE_HOST", "")
        resolver = f"{service.rpartition('.')[0]}.10" if "." in service else ""
        return [*filter(None, (service, resolver)), *list(dict.fromkeys(filter(None, nodes)))[:_MOST_NODES]]

    def _pod(self, session: LiveSession) -> Object:
        found = self._api.get(PODS, name_of(session["session_id"]), self._settings.namespace_sessions)
        if found is None:
            raise Unavailable("--namespace-sessions is not that of the gateway at --url: set both alike.")
        return found


def _memory_mib(pod: Object) -> int:
    limit: str = pod["spec"]["containers"][0]["resources"]["limits"]["memory"]
    return int(limit.removesuffix("Mi"))
