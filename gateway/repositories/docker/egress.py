"""The outside hosts that sessions can connect to: none, or an allowlist through Squid in a container.

The proxy's container is connected to two networks: the sessions' network, where it is the only address that a
session can connect to, and a network with access to the outside.
"""

import hashlib
import ipaddress
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from docker.errors import APIError, ImageNotFound, NotFound
from docker.models.containers import Container
from docker.types import LogConfig, Mount, Ulimit

from gateway.domain import outside
from gateway.domain.addresses import PROXY_PORT, proxy_address
from gateway.errors import ImageMissing, NetworkUnavailable
from gateway.repositories.docker import labels
from gateway.repositories.docker.bridge_rules import table_name
from gateway.repositories.docker.client import Docker, translated_errors
from gateway.repositories.docker.docker_user import DockerUserChain
from gateway.repositories.docker.egress_rules import EgressRules
from gateway.repositories.docker.network import bridge_name
from gateway.repositories.squid import DESCRIPTORS, configuration

IMAGE = "gpu-egress-proxy"
_RESTART: Any = {"Name": "unless-stopped"}
_USER = "13:13"  # Debian's `proxy`


class Egress:
    """`hosts` are the allowed destinations, as `HOST:PORT`. A host that begins with a dot includes its
    subdomains. Without `hosts`, an existing proxy is removed. `opened` are the private subnets in which
    allowed hosts can be."""

    def __init__(
        self,
        docker: Docker,
        network: str,
        subnet: str,
        hosts: Sequence[str],
        directory: Path,
        opened: Sequence[str] = (),
    ) -> None:
        self._docker = docker
        self._network = network
        self._hosts = hosts
        self._directory = directory
        self._name = proxy_name(network)
        closed = outside.closed(subnet, opened)
        self._configuration = configuration(subnet, hosts, closed)
        self._address = proxy_address(ipaddress.IPv4Network(subnet))
        bridge = bridge_name(network)
        self._rules = EgressRules(f"{table_name(bridge)}/egress", closed, opened)
        tcp = ("-p", "tcp")
        requests = ("-d", self._address, *tcp, "--dport", str(PROXY_PORT), "-j", "ACCEPT")
        established = ("-m", "conntrack", "--ctstate", "ESTABLISHED", "-j", "ACCEPT")
        responses = ("-s", self._address, *tcp, "--sport", str(PROXY_PORT), *established)
        on_bridge = ("-i", bridge, "-o", bridge)
        self._chain = DockerUserChain(f"GATEWAY-{bridge}-OUT", (requests, responses), on_bridge)

    def ensure(self) -> None:
        """Raises `NetworkUnavailable`, `ImageMissing`, `DockerUnavailable`, `ContainerFailed`."""
        if not self._hosts:
            self.remove()
            return
        with translated_errors():
            if not self._serves(self._container()):
                self._replace()
            proxy, network = self._inspect()
        if not self._rules.are_loaded(proxy, network):
            self._rules.load(proxy, network)
        self._chain.ensure()

    def describe(self) -> str:
        """Return the allowed hosts. Raises `NetworkUnavailable` unless the proxy serves exactly these."""
        with translated_errors():
            container = self._container()
            if self._hosts and not (self._serves(container) and self._is_ruled()):
                raise NetworkUnavailable(
                    f"The proxy {self._name} does not run as it should; the reaper repairs it within a "
                    f"minute. See also: docker logs {self._name}"
                )
        if not self._hosts and container is not None:
            raise NetworkUnavailable(
                f"The proxy {self._name} exists, although no host is allowed: the reaper removes it."
            )
        return f"ok: {', '.join(self._hosts)}" if self._hosts else "ok: none"

    def remove(self) -> None:
        """Remove the proxy, its network, and the rule that lets sessions connect to it."""
        with translated_errors():
            self._remove_container()
            for network in self._networks():
                with suppress(APIError):  # an administrator's container is connected to it, such as a mirror
                    network.remove()
        self._chain.remove()
        self._rules.remove()

    def _is_ruled(self) -> bool:
        return self._chain.is_loaded() and self._rules.are_loaded(*self._inspect())

    def _inspect(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return Docker's inspections of the proxy and of its network to the outside."""
        api = self._docker.client.api
        return api.inspect_container(self._name), api.inspect_network(self._name)

    def _remove_container(self) -> None:
        container = self._container()
        if container is not None:
            container.remove(force=True)

    def _networks(self) -> Sequence[Any]:
        return self._docker.client.networks.list(names=[f"^{self._name}$"])

    def _container(self) -> Container | None:
        try:
            found = self._docker.client.containers.get(self._name)
        except NotFound:
            return None
        if found.labels.get(labels.EGRESS) is None:
            raise NetworkUnavailable(f"A container named {self._name}, not the gateway's, stands in the way.")
        return found

    def _serves(self, container: Container | None) -> bool:
        return (
            container is not None
            and container.status == "running"
            and container.labels[labels.EGRESS] == _digest(self._configuration)
            and container.attrs["Image"] == self._image().id
        )

    def _replace(self) -> None:
        """Replace a container that has ended, or that has another configuration or image, by a new one."""
        self._remove_container()
        if not self._networks():
            self._docker.client.networks.create(
                self._name, driver="bridge", enable_ipv6=False, labels={labels.NETWORK: self._network}
            )
        container = self._docker.client.containers.create(
            self._image().id,
            name=self._name,
            user=_USER,
            labels={labels.NETWORK: self._network, labels.EGRESS: _digest(self._configuration)},
            network=self._name,
            mounts=[Mount("/etc/gateway", str(self._write()), type="bind", read_only=True)],
            read_only=True,
            tmpfs={"/tmp": "rw,nosuid,nodev,noexec,size=16m", "/run": "rw,nosuid,nodev,noexec,size=16m"},
            cap_drop=["ALL"],
            security_opt=["no-new-privileges:true"],
            init=True,
            mem_limit="512m",
            memswap_limit="512m",
            pids_limit=64,
            ulimits=[Ulimit(name="nofile", soft=DESCRIPTORS, hard=DESCRIPTORS)],
            log_config=LogConfig(type=LogConfig.types.JSON, config={"max-size": "10m", "max-file": "2"}),
            restart_policy=_RESTART,
        )
        inside = self._docker.client.networks.get(self._network)
        try:
            inside.connect(container, ipv4_address=self._address)
            container.start()
        except APIError as error:
            raise NetworkUnavailable(f"The proxy {self._name} does not start: {error.explanation}") from error

    def _image(self) -> Any:
        try:
            return self._docker.client.images.get(IMAGE)
        except ImageNotFound:
            raise ImageMissing(
                f"Docker has no image {IMAGE!r}; build it with docker/build-images egress-proxy."
            ) from None

    def _write(self) -> Path:
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._directory.chmod(0o755)  # Squid's user reads it, whatever the gateway's umask is
            (self._directory / "squid.conf").write_text(self._configuration)
            (self._directory / "squid.conf").chmod(0o644)
        except OSError as error:
            raise NetworkUnavailable(
                f"The proxy's configuration cannot be written below --state-dir ({error.strerror})."
            ) from error
        return self._directory


def proxy_name(network: str) -> str:
    """The name of the proxy's container and of its network to the outside."""
    return f"{network}-egress"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
