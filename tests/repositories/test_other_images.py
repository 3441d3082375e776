"""An administrator's own images: what the gateway overrules, what it passes on, and what needs only sh."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pytest

from gateway.domain.ssh_keys import KeyPair
from gateway.repositories.docker.client import Docker
from gateway.repositories.docker.containers import DockerContainers
from gateway.repositories.docker.network import Worknet
from gateway.repositories.host_parts import ContainerSpec
from tests import own
from tests.repositories.conftest import USER
from tests.repositories.containers.conftest import docker_containers

BASE = os.environ.get("GATEWAY_IMAGE", "gpu-workspace")
READABLE_SSHD = "RUN chmod 0755 /usr/sbin/sshd /usr/lib/openssh/sshd-*\n"


@dataclass
class Session:
    """A container that runs, and the way in that the router has."""

    containers: DockerContainers
    docker: Docker
    id: str
    user: str
    address: str
    key: Path

    def run(self, command: str, *options: str, typed: str = "") -> str:
        """The output of a command that a user gives to ssh, or of a shell without one."""
        trust = [
            "-oStrictHostKeyChecking=no",
            "-oUserKnownHostsFile=/dev/null",
            "-oLogLevel=ERROR",
            "-oBatchMode=yes",
        ]
        ssh = ["ssh", "-F", "none", "-i", str(self.key), "-p", "2222", *trust, *options]
        ssh += [f"{self.user}@{self.address}", *([command] if command else [])]
        done = subprocess.run(
            ssh,
            capture_output=True,
            text=True,
            timeout=30,
            env={"TERM": "xterm", "PATH": os.environ["PATH"]},
            input=typed,
        )
        assert done.returncode == 0, done.stderr + self.log
        return done.stdout

    @property
    def log(self) -> str:
        return self.docker.client.containers.get(self.id).logs().decode()


@pytest.fixture
def session_of(
    docker: Docker, worknet: Worknet, spec: ContainerSpec, router_key: KeyPair, tmp_path: Path
) -> Iterator[Callable[[str], Session]]:
    """Start a session on an image whose Dockerfile has these lines below `FROM`."""
    key = tmp_path / "router.key"
    key.touch(mode=0o600)
    key.write_text(router_key.private)
    os.chown(spec.workspace, spec.request.uid, spec.request.uid)
    tag = own.name("other-image")
    containers = docker_containers(docker, image=tag)

    def start(lines: str) -> Session:
        recipe = f"FROM {BASE}\n{lines}".encode()
        docker.client.images.build(
            fileobj=BytesIO(recipe), tag=tag, network_mode="none", rm=True, forcerm=True
        )
        id = containers.run(spec)
        containers.wait_for_ssh(id, spec.address)
        return Session(containers, docker, id, USER, spec.address, key)

    yield start
    containers.remove(spec.request.session_id)
    docker.client.images.remove(tag, force=True)


def test_what_an_image_starts_by_itself_is_not_started(session_of: Callable[[str], Session]) -> None:
    session = session_of(
        'ENTRYPOINT ["/bin/sh", "-c", "sleep 600"]\nCMD ["python3"]\nUSER nobody\nWORKDIR /srv\n'
        "HEALTHCHECK --interval=1s CMD touch /tmp/unhealthy\n"
    )
    assert session.run("id -u; pwd") == f"20007\n/home/{USER}\n"
    container = session.docker.client.containers.get(session.id)
    assert "Health" not in container.attrs["State"]


def test_a_volume_of_the_image_is_scratch_space_of_bounded_size_and_not_a_directory_of_the_host(
    session_of: Callable[[str], Session],
) -> None:
    session = session_of(
        f"RUN mkdir -m 0777 /data\nVOLUME /data /var/lib/data/ /tmp/ /etc/gateway /home/{USER}\n"
    )
    container = session.docker.client.containers.get(session.id)
    assert {mount["Type"] for mount in container.attrs["Mounts"]} == {"bind"}
    written = session.run(
        "for place in /data /var/lib/data; do head -c 40M /dev/zero > $place/x; done 2>&1; true"
    )
    assert written.count("No space left on device") == 2  # of 32 MiB each
    assert "No space" not in session.run("touch ~/kept; ls ~")


def test_logins_have_the_environment_of_the_image_but_their_own_names_and_limits(
    session_of: Callable[[str], Session], spec: ContainerSpec
) -> None:
    session = session_of(
        "RUN mkdir -p /opt/conda/bin && printf '#!/bin/sh\\necho from conda\\n' > /opt/conda/bin/conda"
        " && chmod +x /opt/conda/bin/conda\n"
        'ENV PATH=/opt/conda/bin:$PATH WORDS="two  words $HOME" UID=7 USER=root HOME=/root SHELL=/bin/false\n'
        "ENV NVIDIA_VISIBLE_DEVICES=all LD_LIBRARY_PATH=/opt/conda/lib LANG=C.UTF-8\n"
    )
    wanted = 'conda; printf "%s|" "$WORDS" $USER $HOME $SHELL $NVIDIA_VISIBLE_DEVICES $LD_LIBRARY_PATH $LANG'
    expected = f"|{USER}|/home/{USER}|/bin/bash|{spec.gpu_uuid}|/opt/conda/lib|C.UTF-8|"
    for command in (wanted, f"bash -lc '{wanted}'", f"sh -lc '{wanted}'"):
        found = session.run(command)
        assert found.startswith("from conda\ntwo  words"), command
        assert found.endswith(expected), command


def test_an_image_without_bash_and_without_descriptions_of_terminals_gives_a_shell(
    session_of: Callable[[str], Session],
) -> None:
    session = session_of(
        "RUN rm -rf /usr/bin/bash /usr/share/terminfo /lib/terminfo /etc/terminfo /etc/profile.d\n"
    )
    assert session.run("echo $SHELL $LANG") == "/bin/sh C.UTF-8\n"
    assert f"/home/{USER}/.local/bin:" in session.run("echo $PATH")
    assert f"/home/{USER}/.local/bin:" in session.run("sh -lc 'echo $PATH'")
    assert f"Welcome, {USER}" in session.run("", "-tt", typed="exit\n")


def test_where_users_can_read_sshd_its_log_is_off_and_says_so(session_of: Callable[[str], Session]) -> None:
    session = session_of(READABLE_SSHD)
    session.run("for d in /proc/[0-9]*/fd/*; do echo FORGED > $d; done 2> /dev/null; true")
    assert session.log.startswith("The log of sshd is off, because /usr/sbin/sshd is readable")
    assert len(session.log.splitlines()) == 1


def test_an_sshd_that_does_not_start_says_why_even_where_its_log_is_off(
    session_of: Callable[[str], Session],
) -> None:
    with pytest.raises(Exception, match="no-such-option"):
        session_of(READABLE_SSHD + "RUN echo no-such-option yes > /etc/ssh/sshd_config.d/wrong.conf\n")


def test_the_proxy_of_the_hosts_docker_client_stays_out_of_sessions(
    worknet: Worknet, spec: ContainerSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxies = {"httpProxy": "http://admin:secret@proxy:3128", "httpsProxy": "http://admin:secret@proxy:3128"}
    (tmp_path / "config.json").write_text(json.dumps({"proxies": {"default": proxies}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    docker = Docker()
    containers = docker_containers(docker)
    try:
        container = docker.client.containers.get(containers.run(spec))
        assert "secret" not in json.dumps(container.attrs)
    finally:
        containers.remove(spec.request.session_id)
