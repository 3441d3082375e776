"""One contract for session containers, on Docker and on the fake; then what only Docker shows."""

import dataclasses
import json
import os
import re
import shlex
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from docker.types import EndpointConfig

from gateway.doctor.attack.catalogue import INSIDE
from gateway.doctor.attack.outcome import Verdict
from gateway.doctor.attack.probe import Targets, judge
from gateway.domain.host_share import Machine
from gateway.domain.observation import Container as ObservedContainer
from gateway.domain.ssh_keys import KeyPair
from gateway.domain.states import Reason
from gateway.errors import AddressTaken, ContainerFailed, DockerUnavailable, ImageMissing
from gateway.repositories.disk import disk_of
from gateway.repositories.docker import labels
from gateway.repositories.docker.client import Docker
from gateway.repositories.docker.containers import DockerContainers
from gateway.repositories.docker.exec import Inside
from gateway.repositories.docker.limits import Limits
from gateway.repositories.docker.network import Worknet
from gateway.repositories.docker.packets import open_paths
from gateway.repositories.host import Containers, ContainerSpec
from tests import own
from tests.fakes.containers import FakeContainers
from tests.repositories.conftest import HOST, NETWORK, SPARE, USER, printed
from tests.repositories.specs import of_session
from tests.whole_gateway import eventually

LIMITS = Limits(memory="512m", cpus=1, pids=64, open_files=4096, shm="64m", tmp="32m", read_only_root=True)

_NO_TARGETS = ("neighbours", "neighbour_sessions", "users", "hosts", "links", "ports")


def docker_containers(docker: Docker, **changes: Any) -> DockerContainers:
    options: dict[str, Any] = {
        "image": os.environ.get("GATEWAY_IMAGE", "gpu-workspace"),
        "network": NETWORK,
        "limits": LIMITS,
        "start_timeout_seconds": 20,
        "simulated_gpus": True,
        "opens_gpu": lambda *_: True,
        "deployment": lambda: "this",
    }
    return DockerContainers(docker, **options | changes)


@pytest.fixture
def real(docker: Docker, worknet: Worknet, spec: ContainerSpec) -> Iterator[DockerContainers]:
    containers = docker_containers(docker)
    yield containers
    for left in containers.list():
        if left.session_id == spec.request.session_id:
            containers.remove(left.session_id)


@pytest.fixture(params=["fake", "docker"])
def containers(request: pytest.FixtureRequest) -> Containers:
    return FakeContainers() if request.param == "fake" else request.getfixturevalue("real")


def of(containers: Containers, spec: ContainerSpec) -> list[tuple[str, bool]]:
    return [
        (found.id, found.ended) for found in containers.list() if found.session_id == spec.request.session_id
    ]


def test_a_container_that_was_run_is_listed_and_speaks_ssh(
    containers: Containers, spec: ContainerSpec
) -> None:
    container_id = containers.run(spec)
    containers.wait_for_ssh(container_id, spec.address)
    assert of(containers, spec) == [(container_id, False)]


def test_a_removed_container_is_gone_when_the_call_returns(
    containers: Containers, spec: ContainerSpec
) -> None:
    containers.run(spec)
    containers.remove(spec.request.session_id)
    assert of(containers, spec) == []


def test_a_survivor_is_described_by_its_container_alone(containers: Containers, spec: ContainerSpec) -> None:
    containers.run(spec)
    [found] = [one for one in containers.survivors() if one.session_id == spec.request.session_id]
    assert (found.user_id, found.uid, found.address) == (
        spec.request.user_id,
        spec.request.uid,
        spec.address,
    )
    assert (found.allocation, found.expires_at) == (spec.allocation, spec.request.expires_at)
    assert found.is_running
    containers.remove(spec.request.session_id)
    assert spec.request.session_id not in [one.session_id for one in containers.survivors()]


def test_a_container_of_another_database_is_foreign(
    docker: Docker, real: DockerContainers, spec: ContainerSpec
) -> None:
    docker_containers(docker, deployment=lambda: "another").run(spec)
    [found] = [one for one in real.list() if one.session_id == spec.request.session_id]
    assert found.foreign
    [survivor] = [one for one in real.survivors() if one.session_id == spec.request.session_id]
    assert survivor.deployment == "another"


def test_removing_what_is_gone_already_is_success(containers: Containers, spec: ContainerSpec) -> None:
    containers.remove(spec.request.session_id)
    containers.run(spec)
    containers.remove(spec.request.session_id)
    containers.remove(spec.request.session_id)


def test_an_orphan_that_holds_the_users_name_makes_way(containers: Containers, spec: ContainerSpec) -> None:
    containers.run(of_session(spec, "an-earlier-session"))
    container_id = containers.run(spec)
    assert of(containers, spec) == [(container_id, False)]
    assert "an-earlier-session" not in [found.session_id for found in containers.list()]


def test_waiting_for_a_container_that_is_gone_fails(containers: Containers, spec: ContainerSpec) -> None:
    container_id = containers.run(spec)
    containers.remove(spec.request.session_id)
    with pytest.raises(ContainerFailed):
        containers.wait_for_ssh(container_id, spec.address)


def test_cutting_the_connections_of_what_is_gone_is_success(
    containers: Containers, spec: ContainerSpec
) -> None:
    containers.disconnect(spec.request.session_id)
    containers.run(spec)
    containers.disconnect(spec.request.session_id)
    containers.remove(spec.request.session_id)
    containers.disconnect(spec.request.session_id)


def test_connections_are_cut_and_what_runs_inside_goes_on(
    real: DockerContainers, docker: Docker, spec: ContainerSpec, router_key: KeyPair, tmp_path: Path
) -> None:
    os.chown(spec.workspace, spec.request.uid, spec.request.uid)
    key = tmp_path / "router.key"
    key.touch(mode=0o600)
    key.write_text(router_key.private)
    options = [
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
        "BatchMode=yes",
        "ConnectTimeout=5",
    ]
    ssh = ["ssh", "-F", "none", "-i", str(key), "-p", "2222", *(f"-o{option}" for option in options)]
    ssh.append(f"{USER}@{spec.address}")

    real.wait_for_ssh(real.run(spec), spec.address)
    command = "setsid sleep 599 <&- >&- 2>&- & echo ready; sleep 600"
    with (
        subprocess.Popen([*ssh, command], stdout=subprocess.PIPE) as stopped,
        subprocess.Popen([*ssh, command], stdout=subprocess.PIPE) as live,
    ):
        for connection in (stopped, live):
            assert connection.stdout is not None
            assert connection.stdout.readline() == b"ready\n"
        container = docker.client.containers.get(of(real, spec)[0][0])
        container.exec_run(["pkill", "-STOP", "-o", "-f", "sshd-session"])  # as its user could
        real.disconnect(spec.request.session_id)
        assert stopped.wait(timeout=5) == live.wait(timeout=5) == 255
    with subprocess.Popen([*ssh, command], stdout=subprocess.PIPE) as paused:
        assert paused.stdout is not None
        assert paused.stdout.readline() == b"ready\n"
        container.pause()
        real.disconnect(spec.request.session_id)
        container.unpause()
        assert paused.wait(timeout=5) == 255
    assert subprocess.run([*ssh, "pgrep -fc '^sleep 599'"], capture_output=True, timeout=20).stdout == b"3\n"


def test_who_follows_is_told_of_a_container_that_ends(containers: Containers, spec: ContainerSpec) -> None:
    with closing(containers.endings()) as endings:
        containers.run(spec)
        containers.remove(spec.request.session_id)
        assert next(iter(endings)) == spec.request.session_id


def test_following_ends_when_another_thread_closes_it(containers: Containers) -> None:
    endings, told = containers.endings(), list[str]()
    follower = threading.Thread(target=lambda: told.extend(endings))
    follower.start()
    endings.close()
    follower.join(timeout=5)
    assert (told, follower.is_alive()) == ([], False)
    endings.close()


def test_no_container_that_stood_before_it_came_up_is_running(
    containers: Containers, spec: ContainerSpec
) -> None:
    up_since = containers.up_since()
    containers.run(spec)
    assert containers.up_since() == up_since < datetime.now(UTC)


def test_a_container_is_as_hard_as_promised(
    real: DockerContainers, docker: Docker, spec: ContainerSpec
) -> None:
    found = docker.client.containers.get(real.run(spec))
    host = found.attrs["HostConfig"]
    assert found.name == f"{USER}-container"
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["Privileged"] is False
    assert host["RestartPolicy"]["Name"] in ("", "no")
    assert (host["PidsLimit"], host["Memory"], host["MemorySwap"]) == (64, 2**29, 2**29)
    assert host["NanoCpus"] == 10**9
    assert host["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "2"}
    assert {limit["Name"]: limit["Hard"] for limit in host["Ulimits"]} == {"nofile": 4096, "core": 1}
    assert host["ReadonlyRootfs"] is True
    assert {place: "size=" in options for place, options in host["Tmpfs"].items()} == {
        "/tmp": True,
        "/var/tmp": True,
        "/dev/shm": True,
    }
    assert (host["IpcMode"], host["PidMode"], host["CgroupnsMode"]) == ("private", "", "private")
    assert host["GroupAdd"] is None
    assert not host["Devices"]
    assert "/proc/kcore" in host["MaskedPaths"]
    assert "/proc/sys" in host["ReadonlyPaths"]
    assert found.attrs["Config"]["User"] == "20007:20007"
    mounts = {mount["Destination"]: (mount["Source"], mount["RW"]) for mount in found.attrs["Mounts"]}
    assert mounts == {
        f"/home/{USER}": (str(spec.workspace), True),
        "/etc/gateway": (str(spec.files / "etc"), False),
        "/etc/passwd": (str(spec.files / "passwd"), False),
        "/etc/group": (str(spec.files / "group"), False),
        "/etc/profile.d/gateway.sh": (str(spec.files / "etc/environment.sh"), False),
    }
    assert list(found.attrs["NetworkSettings"]["Networks"]) == [NETWORK]


def test_the_labels_tell_session_owner_and_placement(
    real: DockerContainers, docker: Docker, spec: ContainerSpec
) -> None:
    found = docker.client.containers.get(real.run(spec)).labels
    assert found[labels.SESSION] == spec.request.session_id
    assert found[labels.OWNER] == USER
    assert (found[labels.GPU], found[labels.PLACEMENT]) == (spec.allocation.gpu, "4:4")


def test_no_process_inside_holds_a_capability(
    real: DockerContainers, docker: Docker, spec: ContainerSpec
) -> None:
    container_id = real.run(spec)
    real.wait_for_ssh(container_id, spec.address)
    status = printed(docker.client.containers.get(container_id), "cat /proc/self/status")
    capabilities = [line.split()[1] for line in status.splitlines() if line.startswith("Cap")]
    assert len(capabilities) == 5
    assert set(capabilities) == {"0" * 16}


def inside(docker: Docker, container_id: str, command: str) -> tuple[int, str]:
    found = docker.client.containers.get(container_id)
    code, output = found.exec_run(["sh", "-c", command])
    assert code is not None
    assert isinstance(output, bytes)
    return code, output.decode()


def test_dockers_resolver_answers_nobody(real: DockerContainers, docker: Docker, spec: ContainerSpec) -> None:
    container_id = real.run(spec)
    real.wait_for_ssh(container_id, spec.address)
    name = f"{NETWORK}-neighbour"
    neighbour = docker.client.containers.run(
        "gpu-workspace", ["sleep", "60"], network=NETWORK, name=name, detach=True
    )
    ask = next(probe for probe in INSIDE if probe.attempt == "ask_dockers_resolver")
    try:
        neighbour.reload()
        address = neighbour.attrs["NetworkSettings"]["Networks"][NETWORK]["IPAddress"]
        command = shlex.join(ask.command(targets_named(name)))
        assert judge(*inside(docker, str(neighbour.id), command)).verdict is Verdict.THROUGH, "without rules"
        assert judge(*inside(docker, container_id, command)).verdict is Verdict.STOPPED
        for asked in (name, address, "example.com"):
            assert inside(docker, container_id, f"timeout 5 getent hosts {asked}") == (2, "")
        assert inside(docker, container_id, "getent hosts localhost")[0] == 0
    finally:
        neighbour.remove(force=True)


def targets_named(name: str) -> Targets:
    nothing: dict[str, Any] = {name: [] for name in _NO_TARGETS}
    return Targets(neighbour_names=[name], memory_mib=1, tcp_mib=1, filler_mib=1, files=1, **nothing)


def test_a_session_is_closed_without_the_hosts_rules(
    real: DockerContainers, docker: Docker, worknet: Worknet, spec: ContainerSpec
) -> None:
    """As after `nft flush ruleset`: the rules in its own namespace stay."""
    container_id = real.run(spec)
    real.wait_for_ssh(container_id, spec.address)
    for family in ("inet", "bridge"):
        subprocess.run(["nft", "delete", "table", family, f"gateway_{NETWORK.replace('-', '/')}"], check=True)
    try:
        with socket.create_server((HOST, 0)) as service:
            port = service.getsockname()[1]
            connect = f"import socket; socket.create_connection(('{HOST}', {port}), timeout=2)"
            code, output = inside(docker, container_id, f'python3 -c "{connect}"')
        assert (code, "No route to host" in output) == (1, True)
        assert open_paths(NETWORK, HOST, SPARE, [spec.address]) == [
            "sessions reach the host",
            "sessions receive each other's ARP requests",
        ], "the session itself does not answer a neighbour"
    finally:
        worknet.ensure()


def test_the_hosts_proxy_settings_stay_on_the_host(
    docker: Docker, worknet: Worknet, spec: ContainerSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`~/.docker/config.json` may hold a proxy's password, which Docker's clients give to all containers."""
    proxies = {"default": {"httpProxy": "http://somebody:secret@proxy.example:3128"}}
    (tmp_path / "config.json").write_text(json.dumps({"proxies": proxies}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    containers = docker_containers(Docker())
    container_id = containers.run(spec)
    try:
        environment = docker.client.containers.get(container_id).attrs["Config"]["Env"]
        assert not [variable for variable in environment if "secret" in variable]
    finally:
        containers.remove(spec.request.session_id)


def test_a_container_that_somebody_else_gave_the_name_is_left_alone(
    real: DockerContainers, docker: Docker, spec: ContainerSpec
) -> None:
    stranger = docker.client.containers.create("gpu-workspace", name=f"{USER}-container")
    try:
        with pytest.raises(ContainerFailed, match="stands in the way"):
            real.run(spec)
        stranger.reload()
    finally:
        stranger.remove(force=True)


def test_two_gateways_on_one_docker_may_serve_the_same_user(
    real: DockerContainers, docker: Docker, spec: ContainerSpec
) -> None:
    marks = {labels.SESSION: "of-another-gateway", labels.NETWORK: "another-gateways"}
    others = docker.client.containers.create("gpu-workspace", name=f"{USER}-container", labels=marks)
    try:
        for _ in range(2):  # the second time an orphan of this gateway has the longer name
            found = docker.client.containers.get(real.run(spec))
            assert found.name == f"{USER}-container-{NETWORK}"
        others.reload()
    finally:
        others.remove(force=True)


def test_containers_of_another_gateway_on_the_same_docker_are_neither_seen_nor_removed(
    real: DockerContainers, docker: Docker, spec: ContainerSpec
) -> None:
    other = docker_containers(docker, network="another-gateways")
    container_id = real.run(spec)
    assert other.list() == []
    other.remove(spec.request.session_id)
    assert of(real, spec) == [(container_id, False)]


def test_one_of_many_creates_under_one_name_at_once_wins(real: DockerContainers, spec: ContainerSpec) -> None:
    real.run(spec)
    threads = [threading.Thread(target=real.remove, args=(spec.request.session_id,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert of(real, spec) == []


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


def one(containers: DockerContainers, spec: ContainerSpec) -> ObservedContainer:
    [found] = [each for each in containers.list() if each.session_id == spec.request.session_id]
    return found


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["kill"], Reason.KILLED),
        (["stop", "--time", "1"], Reason.STOPPED),
        (["restart", "--time", "1"], Reason.RESTARTED),
        (["exec", "kill", "1"], Reason.USER_EXIT),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else value,
)
def test_whoever_ends_a_container_gives_it_its_reason(
    real: DockerContainers, spec: ContainerSpec, command: list[str], reason: Reason
) -> None:
    container_id = real.run(spec)
    real.wait_for_ssh(container_id, spec.address)
    assert not one(real, spec).ended
    verb, *arguments = command
    if verb == "exec":
        arguments = [container_id, "/bin/sh", "-c", " ".join(arguments)]
    else:
        arguments = [*arguments, container_id]
    subprocess.run(["docker", verb, *arguments], check=True, capture_output=True)
    ended = eventually(lambda: found if (found := one(real, spec)).ended else None)
    assert ended.reason is reason


def test_a_container_that_the_kernel_killed_for_its_memory_says_so(
    docker: Docker, worknet: Worknet, spec: ContainerSpec
) -> None:
    """Its first process alone uses memory, so that the kernel has no other to choose."""
    hog = spec.files / "etc/start"
    hog.chmod(0o644)
    hog.write_text("x=x; while :; do x=$x$x; done\n")
    containers = docker_containers(docker, limits=dataclasses.replace(LIMITS, memory="32m"))
    try:
        container_id = ""
        with suppress(ContainerFailed):  # it may be killed before it is looked at
            container_id = containers.run(spec)
        assert container_id is not None
        ended = eventually(lambda: found if (found := one(containers, spec)).ended else None)
        assert ended.reason is Reason.OUT_OF_MEMORY
    finally:
        containers.remove(spec.request.session_id)


def test_a_container_that_somebody_connected_elsewhere_is_seen_and_repaired(
    real: DockerContainers, docker: Docker, spec: ContainerSpec
) -> None:
    container_id = real.run(spec)
    real.wait_for_ssh(container_id, spec.address)
    assert one(real, spec).deviations == []
    other = own.name("other")
    docker.client.networks.create(other)
    try:
        docker.client.networks.get(other).connect(container_id)
        outside = docker.client.networks.get(other).attrs["IPAM"]["Config"][0]["Gateway"]
        connect = f"timeout 3 python3 -c \"import socket; socket.create_connection(('{outside}', 9), 2)\""
        assert "No route to host" in inside(docker, container_id, connect)[1], "its own rules hold there too"
        assert [str(each) for each in one(real, spec).deviations] == [
            f"It is connected to the network {other}."
        ]
        real.repair(spec.request.session_id)
        assert one(real, spec).deviations == []
    finally:
        docker.client.networks.get(other).remove()


def test_a_container_that_was_disconnected_or_has_another_address_is_connected_as_planned(
    real: DockerContainers, docker: Docker, spec: ContainerSpec
) -> None:
    container_id = real.run(spec)
    real.wait_for_ssh(container_id, spec.address)
    network = docker.client.networks.get(NETWORK)
    network.disconnect(container_id)
    assert [str(each) for each in one(real, spec).deviations] == [
        f"It is not connected to the network {NETWORK}."
    ]
    real.repair(spec.request.session_id)
    assert one(real, spec).deviations == []
    real.wait_for_ssh(container_id, spec.address)
    network.disconnect(container_id)
    network.connect(container_id, ipv4_address=SPARE[0])
    assert [str(each) for each in one(real, spec).deviations] == [
        f"Its address is {SPARE[0]}, not {spec.address}."
    ]
    real.repair(spec.request.session_id)
    assert one(real, spec).deviations == []
    real.wait_for_ssh(container_id, spec.address)


def test_a_pause_other_limits_and_missing_rules_are_seen(
    docker: Docker, real: DockerContainers, spec: ContainerSpec
) -> None:
    container_id = real.run(spec)
    container = docker.client.containers.get(container_id)
    container.pause()
    assert [str(each) for each in one(real, spec).deviations] == [
        "Its container is paused: run `docker unpause`."
    ]
    container.unpause()
    container.update(mem_limit="1g", memswap_limit="1g")
    assert [str(each) for each in one(real, spec).deviations] == [
        f"Its limit Memory is {2**30}, not {2**29}.",
        f"Its limit MemorySwap is {2**30}, not {2**29}.",
    ]
    container.update(mem_limit="512m", memswap_limit="512m")
    inside_of = ["nsenter", f"--net={container.attrs['NetworkSettings']['SandboxKey']}"]
    subprocess.run([*inside_of, "nft", "flush", "ruleset"], check=True)
    another_process = docker_containers(docker)
    assert [str(each) for each in one(another_process, spec).deviations] == [
        "The rules in its network namespace are missing."
    ]
    another_process.repair(spec.request.session_id)
    assert one(docker_containers(docker), spec).deviations == []


def test_an_address_that_another_container_holds_is_reported_as_taken(
    real: DockerContainers, docker: Docker, spec: ContainerSpec
) -> None:
    endpoint = {NETWORK: EndpointConfig("1.44", ipv4_address=spec.address)}
    foreign = docker.client.containers.run(
        "gpu-workspace", ["sleep", "60"], network=NETWORK, networking_config=endpoint, detach=True
    )
    try:
        with pytest.raises(AddressTaken):
            real.run(spec)
    finally:
        foreign.remove(force=True)


class DaemonWithout(Docker):
    """The real one, but with another `docker info`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
        super().__init__()
        info = self.client.info() | changes
        monkeypatch.setattr(self.client, "info", lambda: info)


def test_a_daemon_that_cannot_isolate_is_refused_unless_the_weakness_is_allowed(
    docker: Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert docker_containers(docker).check().startswith("ok: Engine ")
    weak = DaemonWithout(monkeypatch, SecurityOptions=["name=seccomp,profile=unconfined"])
    for act in (docker_containers(weak).check, docker_containers(weak).require_isolation):
        with pytest.raises(DockerUnavailable, match="seccomp.*--allow-weaker seccomp"):
            act()
    docker_containers(weak, allowed_weaknesses=["seccomp"]).require_isolation()


# Memory of TCP buffers, block I/O, bandwidth.

TCP_GROUP = Path("/sys/fs/cgroup/memory")


@pytest.mark.may_be_skipped
def test_tcp_buffers_are_limited_where_the_memory_limit_leaves_them_out(
    real: DockerContainers, docker: Docker, spec: ContainerSpec
) -> None:
    if not TCP_GROUP.exists():
        pytest.skip("cgroup v2 counts them as memory")
    container_id = real.run(spec)
    [limit] = TCP_GROUP.glob(f"**/*{container_id}*/memory.kmem.tcp.limit_in_bytes")
    assert int(limit.read_text()) == LIMITS.of_slice(0).tcp_bytes == 32 * 2**20
    [probe] = [probe for probe in INSIDE if probe.attempt == "fill_tcp_buffers"]
    nothing: dict[str, Any] = {name: [] for name in _NO_TARGETS}
    excess = Targets(neighbour_names=[], memory_mib=1, tcp_mib=96, filler_mib=1, files=1, **nothing)
    outcome = judge(*Inside(docker).run(container_id, probe.command(excess)))
    assert outcome.verdict is Verdict.STOPPED, outcome
    limit.write_text("-1")
    assert judge(*Inside(docker).run(container_id, probe.command(excess))).verdict is Verdict.THROUGH


@pytest.fixture
def workspace_on_a_disk(spec: ContainerSpec) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="gateway-tests-", dir="/var/lib") as name:
        os.chown(name, spec.request.uid, spec.request.uid)
        yield Path(name)


@pytest.mark.may_be_skipped
def test_reading_and_writing_the_disk_is_limited(
    docker: Docker, real: DockerContainers, spec: ContainerSpec, workspace_on_a_disk: Path
) -> None:
    if disk_of(workspace_on_a_disk) is None:
        pytest.skip("no disk holds /var/lib")
    limited = docker_containers(docker, limits=dataclasses.replace(LIMITS, io=2 * 2**20))
    container_id = limited.run(dataclasses.replace(spec, workspace=workspace_on_a_disk))
    for copy in ("if=/dev/zero of=file oflag=direct", "if=file of=/dev/null iflag=direct"):
        code, text = Inside(docker).run(container_id, ["sh", "-c", f"cd ~; dd {copy} bs=1M count=6 2>&1"])
        assert code == 0, text
        seconds = float(re.findall(r"([0-9.]+) s,", text)[0])
        assert 2 < seconds < 10, text


def test_io_on_no_disk_that_can_be_limited_is_refused(docker: Docker, spec: ContainerSpec) -> None:
    containers = docker_containers(docker, limits=dataclasses.replace(LIMITS, io=2**20))
    with pytest.raises(ContainerFailed, match="--session-io cannot be enforced: /proc"):
        containers.run(dataclasses.replace(spec, workspace=Path("/proc")))


_SERVE = """
import socket, time
server = socket.create_server(("", 2300))
while True:
    connection = server.accept()[0]
    if connection.recv(1) == b"r":
        while connection.recv(65536): pass
    else:
        try:
            while True: connection.sendall(bytes(65536))
        except OSError: pass
"""


def bytes_a_second(address: str, *, to_session: bool) -> float:
    """Between the host and a session, over three seconds."""
    with socket.create_connection((address, 2300)) as connection:
        connection.sendall(b"r" if to_session else b"w")
        connection.settimeout(1)
        started, count = time.monotonic(), 0
        while time.monotonic() < started + 3:
            with suppress(TimeoutError):
                count += connection.send(bytes(65536)) if to_session else len(connection.recv(65536))
        return count / 3


def test_the_bandwidth_of_each_direction_is_limited(
    docker: Docker, real: DockerContainers, spec: ContainerSpec
) -> None:
    limited = docker_containers(docker, limits=dataclasses.replace(LIMITS, bandwidth=4 * 2**20))
    container_id = limited.run(spec)
    docker.client.containers.get(container_id).exec_run(["python3", "-c", _SERVE], detach=True)
    eventually(lambda: can_connect(spec.address, 2300))
    for to_session in (True, False):
        assert 2**20 < bytes_a_second(spec.address, to_session=to_session) < 10 * 2**20
    [found] = [one for one in limited.list() if one.session_id == spec.request.session_id]
    assert list(found.deviations) == []


def test_another_bandwidth_holds_for_live_sessions_too(
    docker: Docker, real: DockerContainers, spec: ContainerSpec
) -> None:
    real.run(spec)
    limited = docker_containers(docker, limits=dataclasses.replace(LIMITS, bandwidth=4 * 2**20))
    session_id = spec.request.session_id
    assert [one.deviations for one in limited.list() if one.session_id == session_id] != [()]
    limited.repair(session_id)
    assert [list(one.deviations) for one in limited.list() if one.session_id == session_id] == [[]]


def can_connect(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError:
        return False
    return True


def test_a_larger_slice_brings_more_memory_and_cpus(
    docker: Docker, worknet: Worknet, spec: ContainerSpec
) -> None:
    automatic = dataclasses.replace(
        LIMITS, memory=None, cpus=None, machine=Machine(32 * 2**30, os.cpu_count() or 1)
    )
    containers = docker_containers(docker, limits=automatic)
    limits = {}
    for share in (0.0, 0.5):
        container_id = containers.run(dataclasses.replace(spec, host_share=share))
        found = docker.client.api.inspect_container(container_id)["HostConfig"]
        limits[share] = found["Memory"] / 2**30, found["MemorySwap"] / 2**30, found["NanoCpus"] / 1e9
        [listed] = [each for each in containers.list() if each.id == container_id]
        assert not listed.deviations
        containers.remove(spec.request.session_id)
    assert limits[0.0] == (4, 4, 1)
    assert limits[0.5][:2] == pytest.approx((14.4, 14.4), abs=0.01)
    assert limits[0.5][2] == max(1.0, (os.cpu_count() or 1) / 2)


def test_a_container_shows_whether_its_processes_are_confined(
    docker: Docker, real: DockerContainers, spec: ContainerSpec
) -> None:
    real.require_confined(real.run(spec))
    unconfined = docker.client.containers.run(
        "gpu-workspace", ["sleep", "60"], security_opt=["seccomp=unconfined"], network="none", detach=True
    )
    names = ["seccomp", "no-new-privileges", "capabilities"]
    try:
        with pytest.raises(DockerUnavailable, match=f"--allow-weaker {','.join(names)}"):
            docker_containers(docker).require_confined(str(unconfined.id))
        docker_containers(docker, allowed_weaknesses=names).require_confined(str(unconfined.id))
    finally:
        unconfined.remove(force=True)


def test_readiness_examines_a_session_that_runs(docker: Docker, spec: ContainerSpec) -> None:
    containers = docker_containers(docker)
    label = {labels.SESSION: "unconfined", labels.NETWORK: NETWORK}
    unconfined = docker.client.containers.run(
        "gpu-workspace", ["sleep", "60"], labels=label, network="none", user="0", detach=True
    )
    try:
        with pytest.raises(DockerUnavailable, match=r"NoNewPrivs is not 1.*have capabilities \(Cap"):
            containers.check()
    finally:
        unconfined.remove(force=True)
    assert containers.check().startswith("ok: ")
