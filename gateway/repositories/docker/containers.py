"""Session containers in Docker. The gateway hardens and labels them, and finds them by their labels alone."""

import posixpath
import re
import socket
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from docker.errors import APIError, ImageNotFound, NotFound
from docker.types import DeviceRequest, EndpointConfig, LogConfig, Mount

from gateway.domain import promises
from gateway.domain.containers import GPU_LOST
from gateway.domain.observation import Container
from gateway.domain.plan import SSH_PORT
from gateway.domain.recovery import Survivor
from gateway.errors import ContainerFailed, DockerUnavailable, ImageMissing, NetworkUnavailable
from gateway.failpoints import reach
from gateway.repositories.disk import NO_DISK, disk_of
from gateway.repositories.docker import labels, setup
from gateway.repositories.docker.client import NO_GPU_DRIVER, Docker, translated_errors
from gateway.repositories.docker.events import DockerEndings
from gateway.repositories.docker.exec import Inside
from gateway.repositories.docker.gpu_access import GpuAccess, Opens, opens_device
from gateway.repositories.docker.inspection import ALIVE, ENDED, Inspection
from gateway.repositories.docker.limits import Limits
from gateway.repositories.docker.tcp_memory import TcpMemory
from gateway.repositories.docker.toolkit import toolkit_version
from gateway.repositories.host import ContainerSpec, Script

_SCRIPTS = files(__package__) / "scripts"
_BANNER_POLL_SECONDS = 0.005
_LIVENESS_POLL_SECONDS = 0.25
_REMOVAL_SECONDS = 30
_ISOLATION_SECONDS = 60.0
_APPARMOR = Path("/sys/module/apparmor")
# `MIG-<uuid>`, and `MIG-GPU-<uuid>/<gi>/<ci>` from drivers before 470.
_MIG_UUID = re.compile(r"MIG-[0-9A-Za-z/-]+")
# Lines of `nvidia-smi -L`: `GPU 0: NVIDIA A100 (UUID: GPU-…)`, `  MIG 3g.20gb  Device  0: (UUID: MIG-…)`.
_GPU_LISTED = re.compile(r"\(UUID: (GPU-[^)]+)\)")
_MIG_LISTED = re.compile(r"\(UUID: (MIG-[^)]+)\)")


class DockerContainers:
    """With `simulated_gpus`, a container requests its GPU only if the daemon knows the `nvidia` driver. With
    real GPUs it always does. `opens_gpu` is the check of simulated GPUs, by default that of real ones.
    """

    def __init__(
        self,
        docker: Docker,
        *,
        image: str,
        network: str,
        limits: Limits,
        start_timeout_seconds: float,
        simulated_gpus: bool = False,
        deployment: Callable[[], str],
        allowed_weaknesses: Collection[str] = (),
        tcp_memory: TcpMemory | None = None,
        opens_gpu: Opens | None = None,
    ) -> None:
        self._docker = docker
        self._image = image
        self._network = network
        self._limits = limits
        self._start_timeout = start_timeout_seconds
        self._simulated_gpus = simulated_gpus
        self._daemon_has_gpus = True
        self._deployment = cache(deployment)
        self._inspection = Inspection(docker, network, limits.bandwidth)
        self._tcp_memory = tcp_memory or TcpMemory()
        self._allowed_weaknesses = allowed_weaknesses
        self._isolated_until = 0.0
        self._gpu_access = GpuAccess(opens_gpu or opens_device(docker))

    def run(self, spec: ContainerSpec) -> str:
        """Create and start the container and return its id. If this fails, `remove` finds it by its label."""
        with translated_errors():
            if self._daemon_has_gpus:
                try:
                    return self._create_and_start(spec, [_gpu_request(spec.gpu_uuid)])
                except APIError as error:
                    if not (self._simulated_gpus and NO_GPU_DRIVER in str(error.explanation)):
                        raise
                self._daemon_has_gpus = False
                self.remove(spec.request.session_id)
            return self._create_and_start(spec, None)

    def run_without_gpu(self, spec: ContainerSpec) -> str:
        """Do the same as `run`, without a GPU."""
        with translated_errors():
            return self._create_and_start(spec, None)

    def remove(self, session_id: str) -> None:
        """Remove the session's container and return once it is gone."""
        with translated_errors():
            deadline = time.monotonic() + _REMOVAL_SECONDS
            while containers := self._with_label(f"{labels.SESSION}={session_id}"):
                for container in containers:
                    self._remove(container["Id"])
                if time.monotonic() > deadline:
                    raise ContainerFailed(
                        f"Docker still lists the container of session {session_id} after removing it."
                    )

    def list(self) -> Sequence[Container]:
        with translated_errors():
            listed = self._with_label(labels.SESSION)
            containers = self._inspection.containers([found["Id"] for found in listed], self._is_own)
            lost = self._gpu_access.lost(_running_gpus(listed))
        return [
            replace(each, deviations=(*each.deviations, GPU_LOST)) if each.id in lost else each
            for each in containers
        ]

    def repair(self, session_id: str) -> None:
        """Repair a running container that deviates from its plan, as far as that is possible."""
        with translated_errors():
            for found in self._with_label(f"{labels.SESSION}={session_id}"):
                self._inspection.repair(found["Id"])

    def survivors(self) -> Sequence[Survivor]:
        """Return every session container of the network, for every database that records its session."""
        with translated_errors():
            return [self._survivor(found) for found in self._with_label(labels.SESSION)]

    def _is_own(self, found: Mapping[str, str]) -> bool:
        """Containers of older versions have no deployment label, and count as own."""
        return found.get(labels.DEPLOYMENT, self._deployment()) == self._deployment()

    def _survivor(self, found: Mapping[str, Any]) -> Survivor:
        container_labels, created = found["Labels"], datetime.fromtimestamp(found["Created"], UTC)
        network = found["NetworkSettings"]["Networks"].get(self._network) or {}
        fixed = network.get("IPAMConfig") or {}
        uid = container_labels.get(labels.UID, "")
        return Survivor(
            session_id=container_labels[labels.SESSION],
            user_id=container_labels.get(labels.OWNER, ""),
            container_id=found["Id"],
            deployment=container_labels.get(labels.DEPLOYMENT),
            created_at=created,
            expires_at=labels.first_end(container_labels, otherwise=created),
            uid=int(uid) if uid.isdecimal() else None,
            address=network.get("IPAddress") or fixed.get("IPv4Address") or None,
            allocation=labels.allocation(container_labels),
            is_running=found["State"] == "running",
        )

    def wait_for_ssh(self, container_id: str, address: str) -> None:
        """Return once the container's sshd has sent its banner. Raises `ContainerFailed` if it does not."""
        now = time.monotonic()
        deadline, next_check = now + self._start_timeout, now + _LIVENESS_POLL_SECONDS
        while not _sends_ssh_banner(address):
            if (now := time.monotonic()) > deadline:
                raise ContainerFailed(f"The session's sshd did not answer within {self._start_timeout:g} s.")
            if now > next_check:
                self._require_alive(container_id)
                next_check = now + _LIVENESS_POLL_SECONDS
            time.sleep(_BANNER_POLL_SECONDS)

    def check_gpu(self, container_id: str, gpu_uuid: str) -> None:
        """Raises `ContainerFailed` unless nvidia-smi in the container lists exactly one GPU and this MIG
        device. Simulated devices are not checked, because nvidia-smi cannot list them."""
        if self._simulated_gpus:
            return
        code, listing = Inside(self._docker).run(container_id, ["nvidia-smi", "-L"])
        gpus = _GPU_LISTED.findall(listing)
        migs = _MIG_LISTED.findall(listing)
        if code or len(gpus) != 1 or migs != [gpu_uuid]:
            seen = ", ".join(gpus + migs) or " ".join(listing.split())[:200]
            raise ContainerFailed(
                f"The session's container should see {gpu_uuid} and no other GPU device, but sees: {seen}. "
                "Look at the NVIDIA container toolkit's configuration."
            )

    def run_inside(self, container_id: str, script: Script, *arguments: str) -> str:
        """Run a script as the session's user and return its output, which the user can change to any text."""
        text = (_SCRIPTS / f"{script}.sh").read_text()
        code, output = Inside(self._docker).run(container_id, ["/bin/sh", "-c", text, script, *arguments])
        if code:
            raise ContainerFailed(f"A command in the session failed: {' '.join(output.split())[:200]}")
        return output

    def disconnect(self, session_id: str) -> None:
        """Close the SSH connections of the container, also if it is paused. An ended container has none."""
        with translated_errors():
            for found in self._with_label(f"{labels.SESSION}={session_id}"):
                if found["State"] in ALIVE:
                    with suppress(NotFound):
                        self._inspection.namespace(found["Id"]).disconnect()

    def up_since(self) -> datetime:
        with translated_errors():
            return self._docker.up_since()

    def endings(self) -> DockerEndings:
        return DockerEndings(self._docker, self._network)

    def describe_limits(self, host_share: float) -> str:
        return str(self._limits.of_slice(host_share))

    def check(self) -> str:
        """Return Docker's versions. Raises `DockerUnavailable`, also if it cannot isolate sessions."""
        with translated_errors():
            self._docker.client.ping()
            version = self._docker.client.api.version(api_version=False)
        if promises.is_too_old(version):
            raise DockerUnavailable(
                f"Docker Engine {version['Version']} is too old: install {promises.OLDEST_ENGINE}.0 or later."
            )
        self._isolated_until = 0.0
        self.require_isolation()
        notes = [*promises.notes(version), self._toolkit(), self._tcp_memory.weakness()]
        return f"ok: {', '.join(filter(None, notes))}"

    def _toolkit(self) -> str | None:
        return None if self._simulated_gpus else promises.toolkit_note(toolkit_version())

    def require_isolation(self) -> None:
        """Raises `DockerUnavailable` if the daemon cannot isolate sessions. A success is valid for 60 s."""
        if time.monotonic() < self._isolated_until:
            return
        with translated_errors():
            info = self._docker.client.info()
        found = list(promises.weaknesses(info, kernel_has_apparmor=_APPARMOR.exists()))
        if problem := promises.forbidden(found, self._allowed_weaknesses):
            raise DockerUnavailable(problem)
        self._isolated_until = time.monotonic() + _ISOLATION_SECONDS

    def check_image(self) -> None:
        with translated_errors():
            try:
                self._docker.client.images.get(self._image)
            except ImageNotFound:
                raise _image_missing(self._image) from None

    def image_id(self, reference: str) -> str:
        with translated_errors():
            try:
                return str(self._docker.client.images.get(reference).id)
            except ImageNotFound:
                raise _image_missing(reference) from None

    def _create_and_start(self, spec: ContainerSpec, devices: Sequence[DeviceRequest] | None) -> str:
        try:
            container_id = self._create(spec, devices, _name(spec.request.user_id))
        except ImageNotFound:
            raise _image_missing(self._image_of(spec)) from None
        except APIError as error:
            if error.status_code != 409:
                raise
            name = self._free_name(_name(spec.request.user_id))
            container_id = self._create(spec, devices, name)
        reach("after-container-create", DockerUnavailable)
        self._docker.client.api.start(container_id)
        self._tcp_memory.limit(container_id, self._limits.of_slice(spec.host_share).tcp_bytes)
        self._close_namespace(container_id)
        reach("after-container-start", DockerUnavailable)
        return container_id

    def _close_namespace(self, container_id: str) -> None:
        """Load the rules before the user can log in. If the container has ended, the error quotes its log."""
        try:
            self._inspection.close_namespace(container_id, is_new=True)
        except NetworkUnavailable:
            self._require_alive(container_id)
            raise

    def _create(self, spec: ContainerSpec, devices: Sequence[DeviceRequest] | None, name: str) -> str:
        mounts, networks = _mounts(spec), {self._network: spec.address}
        image = self._image_of(spec)
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

    def _image_of(self, spec: ContainerSpec) -> str:
        return spec.request.image or self._image

    def _volumes(self, image: str) -> set[str]:
        """Return the directories that the image declares as `VOLUME`. Docker would mount a directory of the
        host over each, without a limit on its size."""
        declared = self._docker.client.images.get(image).attrs["Config"].get("Volumes") or {}
        return {posixpath.normpath(directory) for directory in declared}

    def _free_name(self, name: str) -> str:
        """Return a name for the user's container, after Docker reported that `name` is in use.

        If the container is this gateway's own, its session has no row: it is removed, and `name` is free. If
        it belongs to a gateway with another network, this gateway's network is added to the name. Raises
        `ContainerFailed` for every other container.
        """
        try:
            container = self._docker.client.containers.get(name)
        except NotFound:
            return name
        network = container.labels.get(labels.NETWORK)
        if labels.SESSION in container.labels and network not in (None, self._network):
            return self._free_name(f"{name}-{self._network}")
        if labels.SESSION not in container.labels or not self._is_own(container.labels):
            raise ContainerFailed(
                f"A container named {name!r}, not this gateway's, stands in the way; rename or remove it."
            )
        self._remove(str(container.id))
        return name

    def _with_label(self, label: str) -> Sequence[dict[str, Any]]:
        """Return the list as Docker has it. Inspecting each container fails if it is removed meanwhile."""
        filters = {"label": [label, f"{labels.NETWORK}={self._network}"]}
        found: Sequence[dict[str, Any]] = self._docker.client.api.containers(all=True, filters=filters)
        return found

    def _remove(self, container_id: str) -> None:
        try:
            self._docker.client.api.remove_container(container_id, v=True, force=True)
        except NotFound:
            pass
        except APIError as error:
            if error.status_code != 409:  # 409: another removal of this container is in progress
                raise
            time.sleep(_BANNER_POLL_SECONDS)

    def _require_alive(self, container_id: str) -> None:
        with translated_errors():
            try:
                container = self._docker.client.containers.get(container_id)
            except NotFound:
                raise ContainerFailed("The session's container vanished while it started.") from None
            if container.status in ENDED:
                output = container.logs(tail=3).decode(errors="replace").strip()
                raise ContainerFailed(
                    f"The session's container stopped while it started: {output or 'it printed nothing'}"
                )


def _image_missing(reference: str) -> ImageMissing:
    return ImageMissing(f"Docker has no image {reference!r}; build it with docker/build-images.")


def _name(user_id: str) -> str:
    return f"{user_id}-container"


def _hostname(user_id: str) -> str:
    """The user id in the form of a host name. Two user ids can have the same host name."""
    return f"{re.sub('[._]', '-', user_id).strip('-')}-gpu"


def _gpu_request(gpu_uuid: str) -> DeviceRequest:
    """The request that `docker run --gpus device=UUID` sends. An empty id would start a container without a
    GPU, and an id with a comma would add a second GPU."""
    if not _MIG_UUID.fullmatch(gpu_uuid):
        raise ContainerFailed(
            f"The driver named the slice {gpu_uuid!r}, which is not the UUID of one MIG device."
        )
    return DeviceRequest(driver="nvidia", device_ids=[gpu_uuid], capabilities=[["gpu", "compute", "utility"]])


def _running_gpus(listed: Sequence[Mapping[str, Any]]) -> Mapping[str, str]:
    """The MIG device of each running container, by the container's id."""
    return {
        found["Id"]: found["Labels"][labels.GPU_UUID]
        for found in listed
        if found["State"] == "running" and found["Labels"].get(labels.GPU_UUID)
    }


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


def _sends_ssh_banner(address: str) -> bool:
    try:
        with socket.create_connection((address, SSH_PORT), timeout=1) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False
