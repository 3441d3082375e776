"""Session containers in Docker: hardened, labelled, found again by label alone."""

import posixpath
import re
import socket
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from docker.errors import APIError, ImageNotFound, NotFound
from docker.types import DeviceRequest, EndpointConfig, LogConfig, Mount

from gateway.domain import promises
from gateway.domain.observation import Container
from gateway.domain.plan import SSH_PORT
from gateway.domain.recovery import Survivor
from gateway.errors import ContainerFailed, DockerUnavailable, ImageMissing, NetworkUnavailable
from gateway.failpoints import reach
from gateway.repositories.docker import labels, setup
from gateway.repositories.docker.client import NO_GPU_DRIVER, Docker, translated_errors
from gateway.repositories.docker.events import DockerEndings
from gateway.repositories.docker.exec import Inside
from gateway.repositories.docker.inspection import ALIVE, ENDED, Inspection
from gateway.repositories.docker.limits import Limits
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
    """With `simulated_gpus` a container asks for its GPU only if the daemon knows the `nvidia` driver;
    with real ones it always does.
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
    ) -> None:
        self._docker = docker
        self._image = image
        self._network = network
        self._limits = limits
        self._start_timeout = start_timeout_seconds
        self._simulated_gpus = simulated_gpus
        self._daemon_has_gpus = True
        self._deployment = cache(deployment)
        self._inspection = Inspection(docker, network)
        self._allowed_weaknesses = allowed_weaknesses
        self._isolated_until = 0.0

    def run(self, spec: ContainerSpec) -> str:
        """Create and start the container; its id. A half-made one is found by `remove`, by its label."""
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
        """As `run`, for a container that gets no GPU."""
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
            ids = [found["Id"] for found in self._with_label(labels.SESSION)]
            return self._inspection.containers(ids, self._is_own)

    def repair(self, session_id: str) -> None:
        """Restore what can be restored of a container that deviates from its plan, while it runs."""
        with translated_errors():
            for found in self._with_label(f"{labels.SESSION}={session_id}"):
                self._inspection.repair(found["Id"])

    def survivors(self) -> Sequence[Survivor]:
        """Every session container of the network, whichever database it was opened with."""
        with translated_errors():
            return [self._survivor(found) for found in self._with_label(labels.SESSION)]

    def _is_own(self, marks: Mapping[str, str]) -> bool:
        """Containers of older versions name no deployment."""
        return marks.get(labels.DEPLOYMENT, self._deployment()) == self._deployment()

    def _survivor(self, found: Mapping[str, Any]) -> Survivor:
        marks, created = found["Labels"], datetime.fromtimestamp(found["Created"], UTC)
        network = found["NetworkSettings"]["Networks"].get(self._network) or {}
        fixed = network.get("IPAMConfig") or {}
        uid = marks.get(labels.UID, "")
        return Survivor(
            session_id=marks[labels.SESSION],
            user_id=marks.get(labels.OWNER, ""),
            container_id=found["Id"],
            deployment=marks.get(labels.DEPLOYMENT),
            created_at=created,
            expires_at=labels.first_end(marks, otherwise=created),
            uid=int(uid) if uid.isdecimal() else None,
            address=network.get("IPAddress") or fixed.get("IPv4Address") or None,
            allocation=labels.allocation(marks),
            is_running=found["State"] == "running",
        )

    def wait_for_ssh(self, container_id: str, address: str) -> None:
        """Return when the container's sshd has sent its banner; raises `ContainerFailed` when it will not."""
        now = time.monotonic()
        deadline, look_at = now + self._start_timeout, now + _LIVENESS_POLL_SECONDS
        while not _sends_ssh_banner(address):
            if (now := time.monotonic()) > deadline:
                raise ContainerFailed(f"The session's sshd did not answer within {self._start_timeout:g} s.")
            if now > look_at:
                self._refuse_dead(container_id)
                look_at = now + _LIVENESS_POLL_SECONDS
            time.sleep(_BANNER_POLL_SECONDS)

    def check_gpu(self, container_id: str, gpu_uuid: str) -> None:
        """Raises `ContainerFailed` unless the MIG device, of one GPU, is all that nvidia-smi lists inside.
        Simulated ones cannot be seen from there."""
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
        """The output of a script that runs as the session's user, who can make it print and do anything."""
        text = (_SCRIPTS / f"{script}.sh").read_text()
        code, output = Inside(self._docker).run(container_id, ["/bin/sh", "-c", text, script, *arguments])
        if code:
            raise ContainerFailed(f"A command in the session failed: {' '.join(output.split())[:200]}")
        return output

    def disconnect(self, session_id: str) -> None:
        """Close the container's SSH connections, also those of a paused one. An ended one has none."""
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

    def check(self) -> str:
        """The versions of Docker. Raises `DockerUnavailable` also when the daemon cannot isolate sessions."""
        with translated_errors():
            self._docker.client.ping()
            version = self._docker.client.api.version(api_version=False)
        if promises.is_too_old(version):
            raise DockerUnavailable(
                f"Docker Engine {version['Version']} is too old: install {promises.OLDEST_ENGINE}.0 or later."
            )
        self._isolated_until = 0.0
        self.require_isolation()
        return f"ok: {', '.join(promises.notes(version))}"

    def require_isolation(self) -> None:
        """Raises `DockerUnavailable` when the daemon cannot isolate sessions. A pass is used for a minute."""
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
                raise self._image_missing() from None

    def _image_missing(self) -> ImageMissing:
        return ImageMissing(f"Docker has no image {self._image!r}; build it with docker/build-images.")

    def _create_and_start(self, spec: ContainerSpec, devices: Sequence[DeviceRequest] | None) -> str:
        try:
            container_id = self._create(spec, devices, _name(spec.request.user_id))
        except ImageNotFound:
            raise self._image_missing() from None
        except APIError as error:
            if error.status_code != 409:
                raise
            name = self._free_name(_name(spec.request.user_id))
            container_id = self._create(spec, devices, name)
        reach("after-container-create", DockerUnavailable)
        self._docker.client.api.start(container_id)
        self._close_namespace(container_id)
        reach("after-container-start", DockerUnavailable)
        return container_id

    def _close_namespace(self, container_id: str) -> None:
        """Before anybody logs in. A container that has ended already is refused with its last words."""
        try:
            self._inspection.close_namespace(container_id, is_new=True)
        except NetworkUnavailable:
            self._refuse_dead(container_id)
            raise

    def _create(self, spec: ContainerSpec, devices: Sequence[DeviceRequest] | None, name: str) -> str:
        mounts, networks = _mounts(spec), {self._network: spec.address}
        limits = self._limits.docker_options(self._volumes() - {mount["Target"] for mount in mounts})
        api = self._docker.client.api
        host_config = api.create_host_config(
            network_mode=self._network,
            mounts=mounts,
            device_requests=list(devices or []),
            cap_drop=["ALL"],
            security_opt=["no-new-privileges:true"],
            cgroupns="private",
            # Docker disables IPv6 on a network without it; here it is a promise.
            sysctls={"net.ipv6.conf.all.disable_ipv6": "1", "net.ipv6.conf.default.disable_ipv6": "1"},
            # Docker's resolver is closed, see `namespace`. It would ask this address of the session.
            dns=["127.0.0.1"],
            log_config=LogConfig(type=LogConfig.types.JSON, config={"max-size": "10m", "max-file": "2"}),
            # No restart policy, as is Docker's default: the reconciler closes a session that stops.
            **limits,
        )
        planned = setup.label(networks, mounts, host_config)
        created = api.create_container(
            self._image,
            # in place of the image's ENTRYPOINT, CMD and HEALTHCHECK
            entrypoint=["/bin/sh", "/etc/gateway/start"],
            healthcheck={"test": ["NONE"]},
            # the proxy in ~/.docker/config.json is the host's, and its URL may hold a password
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
        return str(created["Id"])

    def _volumes(self) -> set[str]:
        """The directories that the image declares as `VOLUME`. Docker would mount a directory of the host, of
        unbounded size, over each."""
        declared = self._docker.client.images.get(self._image).attrs["Config"].get("Volumes") or {}
        return {posixpath.normpath(directory) for directory in declared}

    def _free_name(self, name: str) -> str:
        """A name for the user's container, after `name` was found in use.

        A container of this gateway without a row is an orphan: it is removed, and `name` is free. Another
        gateway on the same Docker may serve the same user: then this one's network is added to the name.
        Raises `ContainerFailed` for anybody else's container.
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
        """As Docker lists them: looking at each one besides fails when it goes away in between."""
        filters = {"label": [label, f"{labels.NETWORK}={self._network}"]}
        found: Sequence[dict[str, Any]] = self._docker.client.api.containers(all=True, filters=filters)
        return found

    def _remove(self, container_id: str) -> None:
        try:
            self._docker.client.api.remove_container(container_id, v=True, force=True)
        except NotFound:
            pass
        except APIError as error:
            if error.status_code != 409:  # another removal of it is under way
                raise
            time.sleep(_BANNER_POLL_SECONDS)

    def _refuse_dead(self, container_id: str) -> None:
        with translated_errors():
            try:
                container = self._docker.client.containers.get(container_id)
            except NotFound:
                raise ContainerFailed("The session's container vanished while it started.") from None
            if container.status in ENDED:
                last_words = container.logs(tail=3).decode(errors="replace").strip()
                raise ContainerFailed(
                    f"The session's container stopped while it started: {last_words or 'it said nothing'}"
                )


def _name(user_id: str) -> str:
    return f"{user_id}-container"


def _hostname(user_id: str) -> str:
    """The user id, as a label of a host name; other users may have the same."""
    return f"{re.sub('[._]', '-', user_id).strip('-')}-gpu"


def _gpu_request(gpu_uuid: str) -> DeviceRequest:
    """What `docker run --gpus device=UUID` sends. An empty id would start a container without a GPU and a
    comma would smuggle in a second one."""
    if not _MIG_UUID.fullmatch(gpu_uuid):
        raise ContainerFailed(
            f"The driver named the slice {gpu_uuid!r}, which is not the UUID of one MIG device."
        )
    return DeviceRequest(driver="nvidia", device_ids=[gpu_uuid], capabilities=[["gpu", "compute", "utility"]])


def _mounts(spec: ContainerSpec) -> list[Mount]:
    def read_only(target: str, name: str) -> Mount:
        return Mount(target, str(spec.files / name), type="bind", read_only=True)

    return [
        Mount(f"/home/{spec.request.user_id}", str(spec.workspace), type="bind"),
        read_only("/etc/gateway", "etc"),
        read_only("/etc/passwd", "passwd"),
        read_only("/etc/group", "group"),
        # /etc/profile of most distributions sets PATH anew and then reads this directory
        read_only("/etc/profile.d/gateway.sh", "etc/environment.sh"),
    ]


def _sends_ssh_banner(address: str) -> bool:
    try:
        with socket.create_connection((address, SSH_PORT), timeout=1) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False
