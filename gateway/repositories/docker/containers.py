"""Session containers in Docker. The gateway hardens and labels them, and finds them by their labels alone."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import cache
from typing import Any

from docker.errors import APIError, ImageNotFound, NotFound
from docker.types import DeviceRequest

from gateway.domain import isolation
from gateway.domain.containers import GPU_LOST
from gateway.domain.observation import Container
from gateway.domain.recovery import Survivor
from gateway.errors import ContainerFailed, DockerUnavailable, ImageMissing, NetworkUnavailable
from gateway.failpoints import reach
from gateway.repositories.docker import gpu_device, labels, starting, survivors
from gateway.repositories.docker.client import NO_GPU_DRIVER, Docker, translated_errors
from gateway.repositories.docker.creation import Creation
from gateway.repositories.docker.events import DockerEndings
from gateway.repositories.docker.exec import Inside
from gateway.repositories.docker.gpu_access import GpuAccess, Opens, opens_device
from gateway.repositories.docker.inspection import ALIVE, Inspection
from gateway.repositories.docker.isolation import Isolation
from gateway.repositories.docker.limits import Limits
from gateway.repositories.docker.tcp_memory import TcpMemory
from gateway.repositories.docker.toolkit import toolkit_version
from gateway.repositories.host_parts import ContainerSpec
from gateway.repositories.scripts import Script

_REMOVAL_SECONDS = 30
_REMOVAL_POLL_SECONDS = 0.005


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
        self._creation = Creation(docker, image, network, limits, self._deployment)
        self._isolation = Isolation(docker, allowed_weaknesses)
        self._gpu_access = GpuAccess(opens_gpu or opens_device(docker))

    def run(self, spec: ContainerSpec) -> str:
        """Create and start the container and return its id. If this fails, `remove` finds it by its label."""
        with translated_errors():
            if self._daemon_has_gpus:
                try:
                    return self._create_and_start(spec, [gpu_device.request(spec.gpu_uuid)])
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
            return [survivors.survivor(found, self._network) for found in self._with_label(labels.SESSION)]

    def _is_own(self, found: Mapping[str, str]) -> bool:
        """Containers of older versions have no deployment label, and count as own."""
        return found.get(labels.DEPLOYMENT, self._deployment()) == self._deployment()

    def wait_for_ssh(self, container_id: str, address: str) -> None:
        starting.wait_for_sshd(self._docker, container_id, address, self._start_timeout)

    def was_used(self, container_id: str) -> bool:
        """Whether the session's sshd has accepted a login, by its log, which users cannot write to."""
        with translated_errors():
            log = self._docker.client.containers.get(container_id).logs()
        return b"Accepted publickey" in log

    def check_gpu(self, container_id: str, gpu_uuid: str) -> None:
        """Raises `ContainerFailed` unless the container sees exactly this device. Simulated devices are
        not checked, because nvidia-smi cannot list them."""
        if not self._simulated_gpus:
            gpu_device.require_only(Inside(self._docker), container_id, gpu_uuid)

    def run_inside(self, container_id: str, script: Script, *arguments: str) -> str:
        """Run a script as the session's user and return its output, which the user can change to any text."""
        command = ["/bin/sh", "-c", script.text, script, *arguments]
        code, output = Inside(self._docker).run(container_id, command)
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
        """Return Docker's versions. Raises `DockerUnavailable`, also if it cannot isolate sessions: as it
        reports itself, or as one of the sessions shows."""
        described = self._isolation.describe()
        with translated_errors():
            found = self._with_label(labels.SESSION)
        for container in [one for one in found if one["State"] == "running"][:1]:
            self._isolation.examine(container["Id"])
        return ", ".join(filter(None, [described, self._toolkit(), self._tcp_memory.weakness()]))

    def _toolkit(self) -> str | None:
        return None if self._simulated_gpus else isolation.toolkit_note(toolkit_version())

    def require_isolation(self) -> None:
        self._isolation.require()

    def require_confined(self, container_id: str) -> None:
        self._isolation.require_of(container_id)

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
            container_id = self._creation.create(spec, devices, _name(spec.request.user_id))
        except ImageNotFound:
            raise _image_missing(spec.request.image or self._image) from None
        except APIError as error:
            if error.status_code != 409:
                raise
            name = self._free_name(_name(spec.request.user_id))
            container_id = self._creation.create(spec, devices, name)
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
            starting.require_alive(self._docker, container_id)
            raise

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
            time.sleep(_REMOVAL_POLL_SECONDS)


def _image_missing(reference: str) -> ImageMissing:
    return ImageMissing(f"Docker has no image {reference!r}; build it with docker/build-images.")


def _name(user_id: str) -> str:
    return f"{user_id}-container"


def _running_gpus(listed: Sequence[Mapping[str, Any]]) -> Mapping[str, str]:
    """The MIG device of each running container, by the container's id."""
    return {
        found["Id"]: found["Labels"][labels.GPU_UUID]
        for found in listed
        if found["State"] == "running" and found["Labels"].get(labels.GPU_UUID)
    }
