"""What a route test stands on: an sshd as a session runs it, a router, and the stock OpenSSH clients.

The sshd runs in the workspace image as a plain uid without a capability.
"""

import base64
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import paramiko

from gateway.domain.pipe import Pipe
from gateway.repositories.files.pipes import Pipes
from tests.fakes.pipe_parts import key_pair
from tests.paths import REPOSITORY

IMAGE = os.environ.get("GATEWAY_IMAGE", "gpu-workspace")
USER = "user123"
UID = os.getuid() or 41234
SSHD_PORT = 2222

SSHD_CONFIG = """
Port 2222
HostKey /etc/route-test/host_key
PidFile none
UsePAM no
AuthorizedKeysFile /etc/route-test/authorized_keys
StrictModes no
AuthenticationMethods publickey
PasswordAuthentication no
Subsystem sftp internal-sftp
AcceptEnv ROUTE_TEST_*
MaxStartups 300
MaxSessions 50
PerSourcePenalties no
"""


def until(true: Callable[[], object], seconds: float = 10) -> None:
    """Polls, because other processes tell nobody when they are done."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def speaks_ssh(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=2) as connection:
            connection.settimeout(2)
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


@dataclass(frozen=True)
class Keys:
    """A user's key pair in files, as ssh wants them."""

    private: Path
    public: str

    @classmethod
    def make(cls, path: Path) -> "Keys":
        private, public = key_pair()
        path.write_text(private)
        path.chmod(0o600)
        return cls(path, public)


@dataclass(frozen=True)
class Sshd:
    """An sshd in a container, and what a pipe to it needs."""

    container: str
    host: str
    private_key: str
    host_key: str

    def pipe(self, username: str, keys: Sequence[str], **changes: object) -> Pipe:
        parts: dict[str, object] = {
            "session_id": f"session-of-{username}",
            "host": self.host,
            "port": SSHD_PORT,
            "private_key": self.private_key,
            "host_key": self.host_key,
        }
        return Pipe(username=username, public_keys=tuple(keys), **{**parts, **changes})  # type: ignore[arg-type]

    @property
    def has_connections(self) -> bool:
        """Whether anything on this machine is connected to it, as the kernel sees it."""
        address = bytes(map(int, self.host.split(".")))[::-1].hex().upper()
        return f" {address}:{SSHD_PORT:04X} 01 " in Path("/proc/net/tcp").read_text()

    def inside(self, command: str) -> str:
        return run("docker", "exec", self.container, "sh", "-c", command)


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{shlex.join(command)}: {done.stderr}"
    return done.stdout.strip()


@contextmanager
def sshd_container(directory: Path, users: Sequence[str], keys: Sequence[str]) -> Iterator[Sshd]:
    """Each of `users` is the same plain uid; `keys` may log in beside the router's."""
    directory.chmod(0o755)  # for the plain uid
    router_private, router_public = key_pair()
    host_private, host_public = key_pair()
    for name, content in {
        "sshd_config": SSHD_CONFIG,
        "host_key": host_private,
        "authorized_keys": "\n".join([router_public, *keys]) + "\n",
        "passwd": "".join(f"{user}:x:{UID}:{UID}::/home/user:/bin/bash\n" for user in users),
        "group": f"users:x:{UID}:\n",
    }.items():
        file = directory / name
        file.write_text(content)
        file.chmod(0o600 if name == "host_key" else 0o644)
        if os.getuid() == 0:
            os.chown(file, UID, UID)
    mounts = [f"{directory}:/etc/route-test:ro"]
    mounts += [f"{directory / name}:/etc/{name}:ro" for name in ("passwd", "group")]
    with network() as name:
        container = run(
            "docker", "run", "--detach", "--rm", "--init", f"--network={name}", f"--user={UID}:{UID}",
            "--cap-drop=ALL", "--security-opt=no-new-privileges:true", "--read-only", "--tmpfs=/tmp",
            f"--tmpfs=/home/user:uid={UID},gid={UID},mode=0700,exec",
            *(f"--volume={mount}" for mount in mounts),
            IMAGE, "/usr/sbin/sshd", "-D", "-e", "-f", "/etc/route-test/sshd_config",
        )  # fmt: skip
        try:
            format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
            host = run("docker", "inspect", "--format", format, container)
            until(lambda: speaks_ssh(host, SSHD_PORT))
            yield Sshd(container, host, router_private, host_public)
        finally:
            subprocess.run(["docker", "rm", "--force", container], capture_output=True, timeout=60)


@contextmanager
def network() -> Iterator[str]:
    name = f"route-test-{os.urandom(4).hex()}"
    run("docker", "network", "create", "--internal", name)
    try:
        yield name
    finally:
        subprocess.run(["docker", "network", "rm", name], capture_output=True, timeout=60)


@dataclass
class Router:
    """A router in a process of its own."""

    kind: str
    directory: Path
    port: int
    log: Path
    command: list[str] = field(default_factory=list)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def config(self) -> Path:
        return self.directory / "pipe.yaml"

    @property
    def pipes(self) -> Pipes:
        return Pipes(self.config)

    @property
    def host_key(self) -> Path:
        return self.directory / "ssh_host_ed25519_key"

    @property
    def public_key(self) -> str:
        return self.host_key.with_name(f"{self.host_key.name}.pub").read_text()

    @property
    def known_hosts(self) -> str:
        """A line for each of its host keys."""
        lines = (file.read_text() for file in sorted(self.directory.glob("ssh_host_*_key.pub")))
        return "".join(f"[127.0.0.1]:{self.port} {' '.join(line.split()[:2])}\n" for line in lines)

    @property
    def processes(self) -> list[int]:
        """The process ids of the router: the supervisor's first, then those of its workers."""
        assert self.process is not None
        first = self.process.pid
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        return [first, *map(int, children)]

    @property
    def memory_kib(self) -> int:
        """What all processes have for themselves."""
        return sum(map(_private_kib, self.processes))

    @property
    def memory_mib(self) -> int:
        return self.memory_kib // 1024

    def start(self, *before: str, **environment: str) -> None:
        """Run it, by the command `before` if there is one."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*before, *self.command], stderr=log, stdout=log, env={**os.environ, **environment}
            )
        until(lambda: speaks_ssh("127.0.0.1", self.port) or self._ended())

    def stop(self) -> None:
        """The first signal ends the listening, the second one the connections."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            until(self._ended_or_signalled)
            self.process.wait(timeout=10)

    def _ended_or_signalled(self) -> bool:
        """Signals that come too fast are one."""
        assert self.process is not None
        if self.process.poll() is None and "no longer listening" in self.log.read_text():
            self.process.send_signal(signal.SIGTERM)
        return self.process.poll() is not None

    def _ended(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the router ended: {self.log.read_text()}"
        return False


def _private_kib(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private"))


def make_router(kind: str, directory: Path) -> Router:
    router = Router(kind, directory, free_port(), directory / "router.log")
    if kind == "embedded":
        gateway = str(Path(sys.executable).with_name("gateway"))
        listen = f"127.0.0.1:{router.port}"
        router.command = [gateway, "router", "--piper-config", str(router.config), "--listen", listen]
    else:
        private, public = key_pair()
        router.host_key.write_text(private)
        router.host_key.chmod(0o600)
        router.host_key.with_name(f"{router.host_key.name}.pub").write_text(public)
        daemon = [os.environ["SSHPIPERD"], "--address", "127.0.0.1", "--port", str(router.port)]
        daemon += ["--server-key", str(router.host_key), "--drop-hostkeys-message"]
        router.command = [*daemon, os.environ["SSHPIPER_YAML"], "--config", str(router.config)]
    return router


@dataclass(frozen=True)
class Client:
    """The stock OpenSSH clients of one user, in front of one router."""

    router: Router
    sshd: Sshd
    directory: Path
    keys: Keys
    username: str = USER
    held_seconds: float = 0.0  # each login waits in line first, for so long

    def options(self, *more: str) -> list[str]:
        known_hosts = self.directory / "known_hosts"
        if not known_hosts.exists():
            known_hosts.write_text(self.router.known_hosts)
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": "10",
            "IdentitiesOnly": "yes",
            "IdentityFile": str(self.keys.private),
            "LogLevel": "ERROR",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": str(known_hosts),
        }
        if self.held_seconds:
            options["ProxyCommand"] = str(self._waiting_script())
        given = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
        return ["-F", "none", *more, *given]

    def _waiting_script(self) -> Path:
        """A file, because some tests pass the options on without quotes."""
        script = self.directory / "wait-in-line"
        command = [sys.executable, "-m", "tests.routes.held", self.router.config, self.router.port]
        waits = shlex.join(map(str, [*command, self.username, self.held_seconds]))
        script.write_text(f"#!/bin/sh\ncd {shlex.quote(str(REPOSITORY))} && exec {waits}\n")
        script.chmod(0o755)
        return script

    def log_in(self, ssh: paramiko.SSHClient) -> None:
        """Log in by paramiko, with the user's key and the host key of the router alone."""
        kind, blob = self.router.public_key.split()[:2]
        key = paramiko.Ed25519Key(data=base64.b64decode(blob))
        ssh.get_host_keys().add(f"[127.0.0.1]:{self.router.port}", kind, key)
        ssh.connect(
            "127.0.0.1",
            self.router.port,
            self.username,
            key_filename=str(self.keys.private),
            look_for_keys=False,
            allow_agent=False,
        )

    def ssh(self, *arguments: str) -> list[str]:
        """`arguments` are options, then the command."""
        ours = self.options("-p", str(self.router.port), "-l", self.username)
        options = list(arguments)
        command: list[str] = []
        if "--" in options:
            place = options.index("--")
            options, command = options[:place], options[place + 1 :]
        return ["ssh", *options, *ours, "127.0.0.1", *command]

    def run(self, *arguments: str, input: bytes | None = None) -> "subprocess.CompletedProcess[bytes]":
        """One command: `run("true")`, or options first: `run("-tt", "--", "true")`."""
        arguments = arguments if "--" in arguments else ("--", *arguments)
        command = self.ssh(*arguments)
        if input is None:
            return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
        return subprocess.run(command, input=input, capture_output=True, timeout=60)

    def output(self, *arguments: str, input: bytes | None = None) -> str:
        done = self.run(*arguments, input=input)
        assert done.returncode == 0, done.stderr.decode()
        text: str = done.stdout.decode()
        return text

    @contextmanager
    def running(self, *arguments: str) -> "Iterator[subprocess.Popen[bytes]]":
        arguments = arguments if "--" in arguments else ("--", *arguments)
        command = self.ssh(*arguments)
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            try:
                yield process
            finally:
                process.kill()
