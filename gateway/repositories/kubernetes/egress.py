"""How sessions of a cluster reach named outside hosts: through a proxy that the administrator deploys."""

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.errors import NetworkUnavailable
from gateway.repositories.files.session_contents import EgressProxy
from gateway.repositories.kubernetes import facts
from gateway.repositories.kubernetes.api import ENDPOINTS, Api
from gateway.repositories.kubernetes.service_url import ServiceUrl

_OF_SERVICE = "kubernetes.io/service-name"  # a label


@dataclass(frozen=True)
class ClusterEgress:
    """`hosts` are the allowed destinations, each as `HOST:PORT`. Without any, there is no proxy."""

    api: Api
    service: ServiceUrl
    hosts: Sequence[str]

    def proxy(self) -> EgressProxy | None:
        """Raises `NetworkUnavailable` if the Service does not exist, because a session that begins then
        would not reach the hosts until its end."""
        if not self.hosts:
            return None
        url = self.service.url()
        if url is None:
            raise NetworkUnavailable(
                f"The Service {self.service.name} of the egress proxy does not exist: apply "
                "docker/kubernetes/components/egress, or set --egress none."
            )
        return EgressProxy(url, self.hosts)

    def describe(self) -> str:
        """Return the allowed hosts. Raises `NetworkUnavailable` unless a pod of the proxy is ready."""
        if self.proxy() is None:
            return "ok: none"
        namespace, _, name = self.service.name.partition("/")
        if not any(map(facts.is_served, self.api.list(ENDPOINTS, namespace, {_OF_SERVICE: name}))):
            raise NetworkUnavailable(
                f"No pod of the egress proxy is ready; see kubectl -n {namespace} get pods."
            )
        return f"ok: {', '.join(self.hosts)}"
