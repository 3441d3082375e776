"""The gateway's logins into a pod. Docker runs what the manifests say, and the tests do what a kubelet
does."""

import os
import tempfile
import threading
import time
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from docker.models.containers import Container
from docker.types import Mount

from gateway.domain.activity import Probe
from gateway.domain.mig import Placement, Profile
from gateway.domain.plan import SessionRequest
from gateway.domain.ssh_keys import make_pair
from gateway.errors import ContainerFailed
from gateway.repositories.docker.client import Docker
from gateway.repositories.kubernetes import objects
from gateway.repositories.kubernetes.logins import Login, NotReachable, SshLogins
from gateway.repositories.scripts import Script
from tests import own
from tests.fakes.cluster_host import SITE

PROFILE = Profile("1g.5gb", 19, 1, 4864, 7, (Placement(0, 1),))
UID = 20007
_SECONDS = 60  # for sshd to answer on a loaded machine


@dataclass
class RunningPod:
    container: Container
    login: Login
    logins: SshLogins

    def run(self, *command: str) -> str:
        return self.logins.run(self.login, command)

    def script(self, script: Script, *arguments: str) -> str:
        return script.result(self.run("/bin/sh", "-c", script.text, str(script), *arguments))

    def connections(self) -> int:
        probe = Probe.parse(self.script(Script.ACTIVITY))
        assert probe is not None
        assert probe.connections is not None
        assert len(probe.peers) == probe.connections
        return probe.connections


def volume(directory: Path, secret: dict[str, Any], source: dict[str, Any]) -> Path:
    """As a kubelet makes the volume of a Secret: root's, writable for the group, with the modes of the
    items."""
    directory.mkdir()
    for item in source["items"]:
        path = directory / item["path"]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b64decode(secret["data"][item["key"]]))
        path.chmod(item.get("mode", source["defaultMode"]))
        os.chown(path, 0, UID)
    os.chown(directory, 0, UID)
    directory.chmod(0o3777)
    return directory


def start(docker: Docker, directory: Path, pod: dict[str, Any], secret: dict[str, Any]) -> Container:
    directory.chmod(0o755)
    [spec] = pod["spec"]["containers"]
    sources: dict[str, Path] = {}
    for each in pod["spec"]["volumes"]:
        if "secret" in each:
            sources[each["name"]] = volume(directory / each["name"], secret, each["secret"])
    home = directory / "home"
    home.mkdir()
    os.chown(home, 0, UID)
    home.chmod(0o2775)
    mounts, scratch = [Mount(spec["workingDir"], str(home), type="bind")], {}
    for mount in spec["volumeMounts"]:
        if mount["name"] in sources:
            source = sources[mount["name"]] / mount.get("subPath", "")
            mounts.append(Mount(mount["mountPath"], str(source), type="bind", read_only=True))
        elif mount["name"] != "home":
            scratch[mount["mountPath"]] = "rw,nosuid,nodev,mode=1777"
    security = pod["spec"]["securityContext"]
    container: Container = docker.client.containers.run(
        spec["image"],
        entrypoint=spec["command"],
        name=own.name("pod"),
        user=f"{security['runAsUser']}:{security['runAsGroup']}",
        working_dir=spec["workingDir"],
        cap_drop=spec["securityContext"]["capabilities"]["drop"],
        security_opt=["no-new-privileges:true"],
        read_only=spec["securityContext"]["readOnlyRootFilesystem"],
        mounts=mounts,
        tmpfs=scratch,
        devices=["/dev/null:/dev/nvidia0:rw"],
        detach=True,
    )
    container.reload()
    return container


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPod]:
    router, sshd, now = make_pair(), make_pair(), datetime.now(UTC)
    request = SessionRequest("0c6a", "ann", UID, "1g.5gb", now, now + timedelta(hours=1), router.public, sshd)
    secret = objects.secret(SITE, request, PROFILE, "d1")
    manifest = objects.pod(SITE, request, PROFILE, "d1")
    container = start(Docker(), tmp_path_factory.mktemp("pod"), manifest, secret)
    try:
        address = container.attrs["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
        running = RunningPod(container, Login(address, "ann", router.private, sshd.public), SshLogins())
        _wait_for_sshd(running)
        yield running
    finally:
        container.remove(force=True, v=True)


def _wait_for_sshd(pod: RunningPod) -> None:
    deadline = time.monotonic() + _SECONDS
    while True:
        try:
            pod.run("true")
            return
        except NotReachable:
            if time.monotonic() > deadline:
                raise AssertionError(pod.container.logs().decode()) from None
            time.sleep(0.05)


def test_the_gateway_logs_in_as_the_sessions_user(pod: RunningPod) -> None:
    assert pod.run("id", "-u", "-n").strip() == "ann"
    assert pod.run("id", "-u").strip() == str(UID)
    assert pod.run("printenv", "GATEWAY_MIG_PROFILE").strip() == "1g.5gb"


def test_arguments_arrive_as_they_are(pod: RunningPod) -> None:
    text = "a 'b' \"c\" $(id) `id` \\ \n *"
    assert pod.run("printf", "%s", text) == text


def test_a_command_that_fails_says_what_it_printed(pod: RunningPod) -> None:
    with pytest.raises(ContainerFailed, match="no such thing"):
        pod.run("sh", "-c", "echo no such thing >&2; exit 3")


def test_another_host_key_and_another_key_are_not_accepted(pod: RunningPod) -> None:
    with pytest.raises(NotReachable):
        SshLogins().run(replace(pod.login, host_key=make_pair().public), ["true"])
    with pytest.raises(NotReachable):
        SshLogins().run(replace(pod.login, private_key=make_pair().private), ["true"])


def test_an_address_without_a_pod_is_not_reachable(pod: RunningPod) -> None:
    with pytest.raises(NotReachable):
        SshLogins().run(replace(pod.login, address="127.0.0.1"), ["true"])


def test_the_gateways_own_logins_are_no_use_of_the_session(pod: RunningPod) -> None:
    pod.run("true")
    assert pod.run("ls", "/tmp", "-a").split() == [".", ".."]
    pod.container.exec_run(["/etc/gateway/shell", "-c", "true"])
    assert pod.run("ls", objects.USED_FILE).strip() == objects.USED_FILE


def test_no_file_of_the_user_changes_what_the_gateway_runs(pod: RunningPod) -> None:
    fake = "mkdir -p ~/.local/bin ~/.ssh; echo 'echo forged' > ~/.local/bin/id; chmod +x ~/.local/bin/id; "
    noise = "for file in .bashrc .profile .ssh/rc; do echo 'echo noise; exit 3' > ~/$file; done"
    pod.container.exec_run(["sh", "-c", f"export HOME=/home/ann; {fake} {noise}"])
    try:
        assert pod.run("id", "-u", "-n") == "ann\n"
    finally:
        pod.container.exec_run(["sh", "-c", "cd /home/ann; rm -r .local .bashrc .profile .ssh"])


def test_no_connection_is_counted_but_those_of_others(pod: RunningPod) -> None:
    deadline = time.monotonic() + _SECONDS
    while pod.connections() != 0:  # that of the last test may still be closing
        assert time.monotonic() < deadline


def programs_on_the_gpu(pod: RunningPod) -> str:
    return pod.script(Script.GPU)


def test_programs_that_have_the_gpu_open_are_counted(pod: RunningPod) -> None:
    assert programs_on_the_gpu(pod) == "0"
    for expected in ("1", "2"):
        pod.container.exec_run(["sh", "-c", "exec 3< /dev/nvidia0; exec sleep 60"], detach=True)
        deadline = time.monotonic() + _SECONDS
        while programs_on_the_gpu(pod) != expected:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    pod.container.exec_run(["pkill", "sleep"])


def test_a_program_that_hides_itself_makes_its_use_unknown(pod: RunningPod) -> None:
    hide = "import ctypes, time; ctypes.CDLL(None).prctl(4, 0, 0, 0, 0); time.sleep(60)"  # PR_SET_DUMPABLE
    pod.container.exec_run(["python3", "-c", hide], detach=True)
    deadline = time.monotonic() + _SECONDS
    while programs_on_the_gpu(pod) != "unknown":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    pod.container.exec_run(["pkill", "python3"])


def test_a_text_reaches_the_terminals_of_the_session(pod: RunningPod) -> None:
    open_terminal = "import pty, os, time; pty.openpty(); open('/tmp/opened', 'w').close(); time.sleep(60)"
    pod.container.exec_run(["python3", "-c", open_terminal], detach=True)
    deadline = time.monotonic() + _SECONDS
    while pod.script(Script.TELL, "hello") != "1":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_connections_are_closed_but_the_one_that_closes_them(pod: RunningPod) -> None:
    ended = threading.Event()

    def stay() -> None:
        with pytest.raises(ContainerFailed):
            pod.logins.run(pod.login, ["sleep", "600"])
        ended.set()

    thread = threading.Thread(target=stay)
    thread.start()
    deadline = time.monotonic() + 20
    while pod.connections() < 1:
        assert time.monotonic() < deadline
    assert int(pod.script(Script.DISCONNECT)) >= 1
    assert ended.wait(20)
    thread.join()
    assert pod.run("echo", "still here").strip() == "still here"


def test_a_login_writes_no_key_to_a_disk_so_a_killed_gateway_leaves_none(
    pod: RunningPod, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    login = threading.Thread(target=pod.run, args=("sleep", "1"))
    login.start()
    seen = set()
    while login.is_alive():
        seen |= set(os.listdir(tmp_path))
        login.join(0.02)
    assert seen == set()
