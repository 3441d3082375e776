"""Creates the containers of sessions: their hardening, mounts, labels and limits."""

import posixpath
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from docker.types import DeviceRequest, EndpointConfig, LogConfig, Mount

from gateway.errors import ContainerFailed
from gateway.repositories.disk import NO_DISK, disk_of
from gateway.repositories.docker import labels, setup
from gateway.repositories.docker.client import Docker
from gateway.repositories.docker.limits import Limits
from gateway.repositories.host_parts import ContainerSpec


class Creation:
    """Docker's errors are raised unchanged. `deployment` returns the id of the database."""

    def __init__(
        self, docker: Docker, image: str, network: str, limits: Limits, deployment: Callable[[], str]
    ) -> None:
        self._docker = docker
        self._image = image
        self._network = network
        self._limits = limits
        self._deployment = deployment

    def create(self, spec: ContainerSpec, devices: Sequence[DeviceRequest] | None, name: str) -> str:
        """Create a container called `name`, and return its id. It does not run yet."""
        mounts, networks = _mounts(spec), {self._network: spec.address}
        image = spec.request.image or self._image
        volumes = self._volumes(image) - {mount["Target"] for mount in mounts}
        limits = self._limits.of_slice(spec.host_share)
        options = limits.docker_options(volumes, self._limited_disk(spec.workspace))
        api = self._docker.client.api
        host_config = api.create_host_config(
            network_mode=self._network,
            mounts=mounts,
            device_requests=list(devices or []),
            cap_drop=["ALL"],
            security_opt=["no-new-privileges:true"],
            cgroupns="private",
            # Docker disables IPv6 on a network that has none. The gateway does not rely on that.
            sysctls={"net.ipv6.conf.all.disable_ipv6": "1", "net.ipv6.conf.default.disable_ipv6": "1"},
            # Docker's resolver is closed, see `namespace`. It would send its queries to this address.
            dns=["127.0.0.1"],
            log_config=LogConfig(type=LogConfig.types.JSON, config={"max-size": "10m", "max-file": "2"}),
            # Docker's default is no restart policy: the reconciler closes a session that stops.
            **options,
        )
        planned = setup.label(networks, mounts, host_config)
        created = api.create_container(
            image,
            # These two replace the ENTRYPOINT, CMD and HEALTHCHECK of the image.
            entrypoint=["/bin/sh", "/etc/gateway/start"],
            healthcheck={"test": ["NONE"]},
            # The proxy in ~/.docker/config.json is for the host, and its URL may contain a password.
            use_config_proxy=False,
            name=name,
            hostname=_hostname(spec.request.user_id),
            user=f"{spec.request.uid}:{spec.request.uid}",
            working_dir=f"/home/{spec.request.user_id}",
            labels={**labels.of(spec, self._network, self._deployment()), labels.PLANNED: planned},
            environment={"NVIDIA_VISIBLE_DEVICES": spec.gpu_uuid},
            networking_config={
                "EndpointsConfig": {
                    name: EndpointConfig("1.44", ipv4_address=address) for name, address in networks.items()
                }
            },
            host_config=host_config,
        )
        self._require_io_limit(created.get("Warnings") or [])
        return str(created["Id"])

    def _limited_disk(self, workspace: Path) -> str | None:
        if self._limits.io is None:
            return None
        if (disk := disk_of(workspace)) is None:
            raise ContainerFailed(NO_DISK.format(path=workspace))
        return disk

    def _require_io_limit(self, warnings: Collection[str]) -> None:
        """Docker leaves out a limit that the kernel lacks, and only warns."""
        if self._limits.io and (discarded := [warning for warning in warnings if "discarded" in warning]):
            raise ContainerFailed(f"--session-io cannot be enforced: {' '.join(discarded)}")

    def _volumes(self, image: str) -> set[str]:
        """Return the directories that the image declares as `VOLUME`. Docker would mount a directory of the
        host over each, without a limit on its size."""
        declared = self._docker.client.images.get(image).attrs["Config"].get("Volumes") or {}
        return {posixpath.normpath(directory) for directory in declared}


def _hostname(user_id: str) -> str:
    """The user id in the form of a host name. Two user ids can have the same host name."""
    return f"{re.sub('[._]', '-', user_id).strip('-')}-gpu"


def _mounts(spec: ContainerSpec) -> list[Mount]:
    def read_only(target: str, name: str) -> Mount:
        return Mount(target, str(spec.files / name), type="bind", read_only=True)

    return [
        Mount(f"/home/{spec.request.user_id}", str(spec.workspace), type="bind"),
        read_only("/etc/gateway", "etc"),
        read_only("/etc/passwd", "passwd"),
        read_only("/etc/group", "group"),
        # /etc/profile of most distributions sets PATH and then reads this directory.
        read_only("/etc/profile.d/gateway.sh", "etc/environment.sh"),
    ]
