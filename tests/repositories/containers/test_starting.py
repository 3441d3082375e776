"""What keeps a container from starting, or from having its GPU."""

import dataclasses
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from io import BytesIO

import pytest

from gateway.errors import ContainerFailed, DockerUnavailable, ImageMissing
from gateway.repositories.docker import labels
from gateway.repositories.docker.client import Docker
from gateway.repositories.docker.containers import DockerContainers
from gateway.repositories.docker.network import Worknet
from gateway.repositories.host_parts import Containers, ContainerSpec
from tests import own
from tests.repositories.conftest import USER
from tests.repositories.containers.conftest import docker_containers


def test_no_container_that_stood_before_it_came_up_is_running(
    containers: Containers, spec: ContainerSpec
) -> None:
    up_since = containers.up_since()
    containers.run(spec)
    assert containers.up_since() == up_since < datetime.now(UTC)


def test_the_labels_tell_session_owner_and_placement(
    real: DockerContainers, docker: Docker, spec: ContainerSpec
) -> None:
    found = docker.client.containers.get(real.run(spec)).labels
    assert found[labels.SESSION] == spec.request.session_id
    assert found[labels.OWNER] == USER
    assert (found[labels.GPU], found[labels.PLACEMENT]) == (spec.allocation.gpu, "4:4")


def test_an_image_that_is_missing_is_named(docker: Docker, worknet: Worknet, spec: ContainerSpec) -> None:
    containers = docker_containers(docker, image="no-such-image-here")
    with pytest.raises(ImageMissing, match="no-such-image-here"):
        containers.check_image()
    with pytest.raises(ImageMissing, match="no-such-image-here"):
        containers.run(spec)


def test_a_container_that_dies_at_once_says_its_last_words(
    docker: Docker, real: DockerContainers, spec: ContainerSpec
) -> None:
    os.remove(spec.files / "etc/ssh_host_ed25519_key")
    with pytest.raises(ContainerFailed, match="hostkeys"):
        real.wait_for_ssh(real.run(spec), spec.address)


def test_a_slice_without_a_proper_uuid_is_never_attached(
    docker: Docker, worknet: Worknet, spec: ContainerSpec
) -> None:
    containers = docker_containers(docker, simulated_gpus=False)
    for gpu_uuid in ("", "MIG-1,MIG-2", "all"):
        with pytest.raises(ContainerFailed, match="UUID"):
            containers.run(dataclasses.replace(spec, gpu_uuid=gpu_uuid))


def test_a_real_gpu_is_never_silently_left_out(docker: Docker, worknet: Worknet, spec: ContainerSpec) -> None:
    containers = docker_containers(docker, simulated_gpus=False)
    try:
        with pytest.raises(ContainerFailed, match="NVIDIA Container Toolkit"):
            containers.run(spec)
    finally:
        containers.remove(spec.request.session_id)


def test_a_daemon_that_is_not_there_is_unavailable(
    monkeypatch: pytest.MonkeyPatch, spec: ContainerSpec
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    containers = docker_containers(Docker())
    for act in (
        containers.check,
        containers.list,
        lambda: containers.remove("x"),
        lambda: containers.run(spec),
    ):
        with pytest.raises(DockerUnavailable):
            act()


@pytest.fixture
def image_with_nvidia_smi(docker: Docker) -> Iterator[str]:
    """Its `nvidia-smi` prints the file `listing` beside sshd's; without one it fails."""
    script = "#!/bin/sh\\ncat /etc/gateway/listing\\n"
    recipe = (
        f"FROM gpu-workspace\nRUN printf '{script}' > /usr/bin/nvidia-smi && chmod 755 /usr/bin/nvidia-smi\n"
    )
    tag = own.name("nvidia-smi")
    docker.client.images.build(
        fileobj=BytesIO(recipe.encode()), tag=tag, network_mode="none", rm=True, forcerm=True
    )
    yield tag
    docker.client.images.remove(tag, force=True)


def test_a_container_is_looked_at_from_inside_for_exactly_its_slice(
    docker: Docker, image_with_nvidia_smi: str, real: DockerContainers, spec: ContainerSpec
) -> None:
    container_id = docker_containers(docker, image=image_with_nvidia_smi).run(spec)
    looking = docker_containers(docker, simulated_gpus=False)
    gpu = "GPU {}: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a7{})\n"
    mig = "  MIG 1g.5gb      Device  {}: (UUID: {})\n"
    other = "MIG-00000000-aaaa-5555-bbbb-000000000000"
    right = gpu.format(0, 0) + mig.format(0, spec.gpu_uuid)
    listing = spec.files / "etc/listing"
    with pytest.raises(ContainerFailed, match="No such file"):
        looking.check_gpu(container_id, spec.gpu_uuid)
    for wrong in (
        gpu.format(0, 0),
        gpu.format(0, 0) + mig.format(0, other),
        right + mig.format(1, other),
        right + gpu.format(1, 1),
        "",
    ):
        listing.write_text(wrong)
        with pytest.raises(ContainerFailed, match=f"should see {spec.gpu_uuid} .* sees: (GPU-.*)?\\. Look"):
            looking.check_gpu(container_id, spec.gpu_uuid)
    listing.write_text(right)
    looking.check_gpu(container_id, spec.gpu_uuid)
    whole = "GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a70"
    for wrong in (right, gpu.format(1, 1), gpu.format(0, 0) + gpu.format(1, 1), ""):
        listing.write_text(wrong)
        with pytest.raises(ContainerFailed, match=f"should see {whole} "):
            looking.check_gpu(container_id, whole)
    listing.write_text(gpu.format(0, 0))
    looking.check_gpu(container_id, whole)
    real.check_gpu(container_id, other)  # simulated: there is nothing to be seen
