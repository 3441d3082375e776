"""The files that a session's sshd and login shells read, mounted read-only into its container."""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from gateway.domain.mig import Gpu
from gateway.domain.plan import SSH_PORT, Allocation, SessionRequest
from gateway.errors import DiskFull, Unavailable

_PATH = "/usr/local/nvidia/bin:/usr/local/cuda/bin:/usr/local/bin:/usr/bin:/bin"
_WARNING = "  Warning     "
_LIBRARY_PATH = "/usr/local/nvidia/lib:/usr/local/nvidia/lib64"

# PAM, passwords and a pid file need root; sshd's penalties would punish the router, from whose
# address all users come (the image turns them off where its sshd has them). The first value of an
# option counts, so the image's own come last.
_SSHD_CONFIG = """\
Port {port}
HostKey /etc/gateway/ssh_host_ed25519_key
AuthorizedKeysFile /etc/gateway/authorized_keys
AllowUsers {user}
AuthenticationMethods publickey
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
PidFile none
PrintLastLog no
MaxStartups 200:30:400
MaxSessions 200
ClientAliveInterval 60
ClientAliveCountMax 3
StreamLocalBindUnlink yes
X11Forwarding no
PermitTunnel no
PermitUserEnvironment no
AcceptEnv LANG LC_* COLORTERM
Subsystem sftp internal-sftp
SetEnv {environment}
Include /etc/ssh/sshd_config.d/*.conf
"""


@dataclass(frozen=True, slots=True)
class EgressProxy:
    """The proxy's URL, and what it leads to, each as `HOST:PORT`."""

    proxy: str
    hosts: Sequence[str]


class HostSessionFiles:
    """One directory a session: `passwd`, `group`, and `etc/`, which becomes /etc/gateway."""

    def __init__(self, root: Path, egress_proxy: EgressProxy | None = None) -> None:
        self._root = root
        self._outside = egress_proxy

    def write(self, request: SessionRequest, gpu: Gpu, allocation: Allocation) -> Path:
        directory = self._root / request.session_id
        with _errors_told():
            (directory / "etc").mkdir(mode=0o755, parents=True, exist_ok=True)
            for name, content in _contents(request, gpu, allocation, self._outside).items():
                (directory / name).write_text(content)
                (directory / name).chmod(0o444)
            _write_private(directory / "etc/ssh_host_ed25519_key", request.host_key.private, request.uid)
        return directory

    def tell(self, session_id: str, text: str) -> None:
        """Put `text` below the message of the day, in the place of what was put there before."""
        etc = self._root / session_id / "etc"
        with _errors_told(), suppress(FileNotFoundError):  # the session is over
            message, _, before = (etc / "motd").read_text().partition(_WARNING)
            if before.strip() != text:
                (etc / "motd.new").write_text(message + (f"{_WARNING}{text}\n\n" if text else ""))
                (etc / "motd.new").chmod(0o444)
                (etc / "motd.new").rename(etc / "motd")

    def remove(self, session_id: str) -> None:
        shutil.rmtree(self._root / session_id, ignore_errors=True)

    def list(self) -> Mapping[str, bool]:
        """The ids of the sessions that have files, and whether somebody holds the claim on them."""
        ids = sorted(os.listdir(self._root)) if self._root.is_dir() else []
        return {id: bool(self.is_claimed(id)) for id in ids}

    def is_claimed(self, session_id: str) -> bool | None:
        """Whether a living process holds the claim; None when the session has no directory here."""
        try:
            directory = os.open(self._root / session_id, os.O_RDONLY | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            fcntl.flock(directory, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(directory)
        return False

    @contextmanager
    def claim(self, session_id: str) -> Iterator[None]:
        """The session's directory, made if it is missing and locked: the lock goes with its process."""
        directory = self._locked(self._root / session_id)
        try:
            yield
        finally:
            os.close(directory)

    def _locked(self, path: Path) -> int:
        while True:
            with _errors_told():
                path.mkdir(mode=0o755, parents=True, exist_ok=True)
                directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
                fcntl.flock(directory, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.stat(path), os.fstat(directory)):
                    return directory
            os.close(directory)  # it was removed before it was locked


@contextmanager
def _errors_told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull("The disk of the gateway's state is full; free some space.") from error
        raise Unavailable(f"The session's files cannot be written ({error.strerror}).") from error


def _write_private(path: Path, content: str, uid: int) -> None:
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(content)
    os.chown(path, uid, uid)


def _contents(
    request: SessionRequest, gpu: Gpu, allocation: Allocation, outside: EgressProxy | None
) -> dict[str, str]:
    environment = {
        "PATH": _PATH,
        "LD_LIBRARY_PATH": _LIBRARY_PATH,
        "NVIDIA_VISIBLE_DEVICES": str(allocation.mig_uuid),
        "NVIDIA_DRIVER_CAPABILITIES": "compute,utility",
        "GATEWAY_MIG_PROFILE": allocation.profile,
        "GATEWAY_LEASE_ENDS": f"{request.expires_at:%Y-%m-%dT%H:%M:%SZ}",
    }
    if outside:
        proxied = dict.fromkeys(("http_proxy", "https_proxy"), outside.proxy)
        proxied["no_proxy"] = "localhost,127.0.0.1"
        environment |= proxied | {name.upper(): value for name, value in proxied.items()}
    user, uid = request.user_id, request.uid
    return {
        "passwd": (
            "root:x:0:0:root:/root:/usr/sbin/nologin\n"
            "sshd:x:101:65534::/run/sshd:/usr/sbin/nologin\n"
            "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
            f"{user}:x:{uid}:{uid}:{user}:/home/{user}:/bin/bash\n"
        ),
        "group": f"root:x:0:\ntty:x:5:\nnogroup:x:65534:\n{user}:x:{uid}:\n",
        "etc/sshd_config": _SSHD_CONFIG.format(
            port=SSH_PORT,
            user=user,
            environment=" ".join(f"{name}={value}" for name, value in environment.items()),
        ),
        "etc/authorized_keys": request.router_key + "\n",
        "etc/environment.sh": "".join(f"export {name}={value}\n" for name, value in environment.items()),
        "etc/motd": _message_of_the_day(request, gpu, allocation, outside),
    }


def _message_of_the_day(
    request: SessionRequest, gpu: Gpu, allocation: Allocation, outside: EgressProxy | None
) -> str:
    profile = gpu.profile(allocation.profile)
    memory = f", {profile.memory_mib} MiB" if profile else ""
    network = (
        f"  Network     {', '.join(outside.hosts)} by $http_proxy, and nothing else\n" if outside else ""
    )
    simulated = " (simulated)" if gpu.simulated else ""
    return f"""
  Welcome, {request.user_id}.

  GPU slice   {allocation.profile}{memory} of {gpu.name}{simulated}
              {allocation.mig_uuid}
  Lease ends  {request.expires_at:%Y-%m-%d %H:%M} UTC
  Files       your home directory is kept for your next session; the rest is not
{network}
"""
