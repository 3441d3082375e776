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
from docker.types import LogConfig, Mount

from gateway.domain.addresses import PROXY_PORT, proxy_address
from gateway.errors import ImageMissing, NetworkUnavailable
from gateway.repositories.docker import labels
from gateway.repositories.docker.client import Docker, translated_errors
from gateway.repositories.docker.docker_user import DockerUserChain
from gateway.repositories.docker.network import bridge_name

IMAGE = "gpu-egress-proxy"
_RESTART: Any = {"Name": "unless-stopped"}
_USER = "13:13"  # Debian's `proxy`
# -n: Squid makes no reverse lookup of an address. The owner of its reverse zone could return an allowed name.
_HOST = """\
acl host{number} dstdomain -n {host}
acl port{number} port {port}
http_access allow host{number} port{number}
"""
_CONFIGURATION = """\
http_port {port}
{hosts}http_access deny all
cache deny all
cache_mem 8 MB
memory_pools off
max_filedescriptors 4096
pid_filename none
coredump_dir /tmp
access_log stdio:/dev/stdout
cache_log /dev/stderr
logfile_rotate 0
shutdown_lifetime 1 second
via off
forwarded_for delete
httpd_suppress_version_string on
"""


class Egress:
    """`hosts` are the allowed destinations, as `HOST:PORT`. A host that begins with a dot includes its
    subdomains. Without `hosts`, an existing proxy is removed."""

    def __init__(
        self, docker: Docker, network: str, subnet: str, hosts: Sequence[str], directory: Path
    ) -> None:
        self._docker = docker
        self._network = network
        self._hosts = hosts
        self._directory = directory
        self._name = f"{network}-egress"
        self._address = proxy_address(ipaddress.IPv4Network(subnet))
        bridge = bridge_name(network)
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
        self._chain.ensure()

    def describe(self) -> str:
        """Return the allowed hosts. Raises `NetworkUnavailable` unless the proxy serves exactly these."""
        with translated_errors():
            container = self._container()
            if self._hosts and not (self._serves(container) and self._chain.is_loaded()):
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

    @property
    def _configuration(self) -> str:
        numbered = enumerate(entry.rpartition(":") for entry in self._hosts)
        hosts = [_HOST.format(number=number, host=host, port=port) for number, (host, _, port) in numbered]
        return _CONFIGURATION.format(port=PROXY_PORT, hosts="".join(hosts))

    def _write(self) -> Path:
        try:
            self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            (self._directory / "squid.conf").write_text(self._configuration)
            (self._directory / "squid.conf").chmod(0o644)
        except OSError as error:
            raise NetworkUnavailable(
                f"The proxy's configuration cannot be written below --state-dir ({error.strerror})."
            ) from error
        return self._directory


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
