"""A container is closed to its session, and the session to everything else."""

import json
import shlex
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gateway.doctor.attack.catalogue import INSIDE
from gateway.doctor.attack.outcome import Verdict
from gateway.doctor.attack.probe import Targets, judge
from gateway.errors import DockerUnavailable
from gateway.repositories.docker import labels
from gateway.repositories.docker.client import Docker
from gateway.repositories.docker.containers import DockerContainers
from gateway.repositories.docker.network import Worknet
from gateway.repositories.docker.packets import open_paths
from gateway.repositories.host_parts import ContainerSpec
from tests.repositories.conftest import HOST, NETWORK, SPARE, USER, printed
from tests.repositories.containers.conftest import NO_TARGETS, docker_containers, inside


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


def test_no_process_inside_holds_a_capability(
    real: DockerContainers, docker: Docker, spec: ContainerSpec
) -> None:
    container_id = real.run(spec)
    real.wait_for_ssh(container_id, spec.address)
    status = printed(docker.client.containers.get(container_id), "cat /proc/self/status")
    capabilities = [line.split()[1] for line in status.splitlines() if line.startswith("Cap")]
    assert len(capabilities) == 5
    assert set(capabilities) == {"0" * 16}


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
    nothing: dict[str, Any] = {name: [] for name in NO_TARGETS}
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
