"""A container on the image to be checked, as a session has it, and the way into it."""

import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Network
from pathlib import Path
from tempfile import TemporaryDirectory

from docker.types import IPAMConfig, IPAMPool

from gateway.domain.mig import Gpu, MigMode, Placement
from gateway.domain.plan import SSH_PORT, Allocation, SessionRequest
from gateway.domain.ssh_keys import KeyPair, make_pair
from gateway.repositories.docker.client import Docker, translated_errors
from gateway.repositories.docker.containers import DockerContainers
from gateway.repositories.docker.limits import Limits
from gateway.repositories.files.session_files import HostSessionFiles
from gateway.repositories.host_parts import ContainerSpec

USER, UID = "image-check", 29999
_SSH_SECONDS = 20


@dataclass(frozen=True, slots=True)
class ImageSession:
    docker: Docker
    container_id: str
    address: str
    key: Path

    def run(self, command: str) -> tuple[int, str]:
        """The exit status and both outputs of a command of the user."""
        return _run(["ssh", *self._options("-p"), f"{USER}@{self.address}", command])

    def sftp(self) -> tuple[int, str]:
        return _run(["sftp", *self._options("-P"), "-b", "/dev/null", f"{USER}@{self.address}"])

    def log(self) -> str:
        with translated_errors():
            return self.docker.client.containers.get(self.container_id).logs().decode(errors="replace")

    def _options(self, port: str) -> list[str]:
        options = ("BatchMode=yes", "IdentityAgent=none", "StrictHostKeyChecking=no", "LogLevel=ERROR")
        known = ("UserKnownHostsFile=/dev/null", "GlobalKnownHostsFile=/dev/null", "ConnectTimeout=10")
        pairs = [part for option in (*options, *known) for part in ("-o", option)]
        return ["-F", "none", "-i", str(self.key), port, str(SSH_PORT), *pairs]


def _run(command: list[str]) -> tuple[int, str]:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SSH_SECONDS, check=False
        )
    except FileNotFoundError:
        return 127, f"{command[0]} is missing on this host: install openssh-client"
    except subprocess.TimeoutExpired:
        return 124, f"no answer within {_SSH_SECONDS} s"
    return done.returncode, (done.stdout + done.stderr).decode(errors="replace").strip()


@contextmanager
def image_session(docker: Docker, image: str, limits: Limits) -> Iterator[ImageSession]:
    """A container as a session has it, but without a GPU, on a closed network of its own."""
    router = make_pair()
    with ExitStack() as stack:
        temporary = TemporaryDirectory(prefix="gateway-image-check-", dir="/var/tmp")  # Docker mounts from it
        directory = Path(stack.enter_context(temporary))
        directory.chmod(0o755)
        network, address = stack.enter_context(_network(docker))
        spec = _spec(directory, address, router)
        containers = DockerContainers(
            docker,
            image=image,
            network=network,
            limits=limits,
            start_timeout_seconds=20,
            deployment=lambda: "image-check",
        )
        stack.callback(containers.remove, spec.request.session_id)
        container_id = containers.run_without_gpu(spec)
        containers.wait_for_ssh(container_id, address)
        key = directory / "key"
        key.touch(mode=0o600)
        key.write_text(router.private)
        yield ImageSession(docker, container_id, address, key)


@contextmanager
def _network(docker: Docker) -> Iterator[tuple[str, str]]:
    """A network's name, and an address in it. Docker gives fixed addresses only in subnets that it was asked
    for, so a first network finds a free subnet."""
    networks, name = docker.client.networks, f"image-check-{uuid.uuid4().hex[:8]}"
    with translated_errors():
        first = networks.create(name, internal=True)
        first.reload()
        subnet = str(first.attrs["IPAM"]["Config"][0]["Subnet"])
        first.remove()
        pools = IPAMConfig(pool_configs=[IPAMPool(subnet=subnet)])
        network = networks.create(name, internal=True, ipam=pools)
    try:
        yield name, str(IPv4Network(subnet)[2])
    finally:
        with translated_errors():
            network.remove()


def _spec(directory: Path, address: str, router: KeyPair) -> ContainerSpec:
    now = datetime.now(UTC)
    request = SessionRequest(
        session_id=str(uuid.uuid4()),
        user_id=USER,
        uid=UID,
        mig_profile=None,
        created_at=now,
        expires_at=now + timedelta(minutes=10),
        router_key=router.public,
        host_key=make_pair(),
    )
    gpu = Gpu(0, "GPU-none", "no GPU", 0, MigMode.DISABLED, 0, 0, (), ())
    allocation = Allocation(gpu.uuid, "none", Placement(0, 0), mig_uuid="MIG-none")
    workspace = directory / "workspace"
    workspace.mkdir(mode=0o700)
    os.chown(workspace, UID, UID)
    files = HostSessionFiles(directory / "sessions").write(request, gpu, allocation)
    return ContainerSpec(request, allocation, "MIG-none", address, workspace, files)
