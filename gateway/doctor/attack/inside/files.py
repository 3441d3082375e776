"""Attempts at files: other users' files, the host's, sockets, and files that decide who may log in."""

import errno
import glob
import os
import socket
import stat
import subprocess
import tempfile
from collections.abc import Callable

_OWN_MOUNTS = set(
    "/etc/gateway /etc/passwd /etc/group /etc/profile.d/gateway.sh "
    "/etc/resolv.conf /etc/hostname /etc/hosts /dev/termination-log".split()
)


def other_workspaces(users: list[str]) -> str:
    """Reach another user's workspace by its path or by a relative one."""
    home = os.path.expanduser("~")
    others = [path for path in glob.glob("/home/*") if path != home]
    others += [
        path for user in users for path in (f"/home/{user}", f"{home}/../{user}", f"/srv/workspaces/{user}")
    ]
    for path in others:
        if os.path.lexists(path):
            return f"{path} exists"
    raise FileNotFoundError(errno.ENOENT, "no other workspace exists here")


def host_files() -> str:
    """Find a directory of the host that is mounted, besides the workspace and the session's own files."""
    home = os.path.expanduser("~")
    with open("/proc/self/mountinfo") as file:
        for line in file:
            fields, kind = line.split(" - ")[0].split(), line.split(" - ")[1].split()[0]
            mount_point = fields[4]
            from_disk = kind not in {
                "proc",
                "sysfs",
                "tmpfs",
                "devpts",
                "mqueue",
                "cgroup",
                "cgroup2",
                "overlay",
            }
            expected = os.path.realpath(mount_point) in _OWN_MOUNTS | {home} or "nvidia" in line
            if from_disk and not expected:
                return f"{mount_point} is mounted from the host"
    raise PermissionError("only what the session needs is mounted")


def daemon_sockets() -> str:
    """Connect to the sockets of Docker and containerd, and to every other unix socket."""
    paths = {
        "/var/run/docker.sock",
        "/run/docker.sock",
        "/run/containerd/containerd.sock",
        "/run/podman/podman.sock",
    }
    for directory, _, names in os.walk("/"):
        if not directory.startswith(("/proc", "/sys", "/dev")):
            paths |= {path for path in (os.path.join(directory, name) for name in names) if _is_socket(path)}
    for path in sorted(paths - {"/etc/gateway/door.sock"}):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            try:
                connection.connect(path)
            except OSError:
                continue
            owner = os.stat(path).st_uid
            if owner != os.getuid():
                return f"{path} answers"
    raise FileNotFoundError(errno.ENOENT, "no such socket")


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return False


def login_files() -> str:
    """Change the accepted keys, sshd's configuration or the list of users."""
    failures: list[OSError] = []
    for path in ("/etc/gateway/authorized_keys", "/etc/gateway/sshd_config", "/etc/passwd", "/etc/group"):
        acts: dict[str, Callable[[str], None]] = {
            "written": lambda path: os.close(os.open(path, os.O_WRONLY | os.O_APPEND)),
            "opened to others": lambda path: os.chmod(path, 0o666),
            "moved": lambda path: os.rename(path, path + ".old"),
            "removed": os.unlink,
            "linked": lambda path: os.link(path, os.path.expanduser("~/linked")),
        }
        for what, act in acts.items():
            try:
                act(path)
            except OSError as error:
                failures.append(error)
            else:
                return f"{path} can be {what}"
    raise failures[0]


def own_authorized_keys(port: int) -> str:
    """Add a key to ~/.ssh/authorized_keys, to log in after the lease or to let another person in."""
    key = os.path.join(tempfile.mkdtemp(), "key")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    directory = os.path.expanduser("~/.ssh")
    os.makedirs(directory, mode=0o700, exist_ok=True)
    authorized = os.path.join(directory, "authorized_keys")
    kept = open(authorized).read() if os.path.exists(authorized) else None  # noqa: SIM115
    try:
        with open(authorized, "a") as file, open(key + ".pub") as public:
            file.write(public.read())
        login = ["ssh", "-F", "none", "-i", key, "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"]
        login += ["-o", "UserKnownHostsFile=/dev/null", "-p", str(port), "127.0.0.1", "echo through"]
        done = subprocess.run(login, capture_output=True, text=True, timeout=20, check=False)
    finally:
        if kept is None:
            os.unlink(authorized)
        else:
            with open(authorized, "w") as file:
                file.write(kept)
    if "through" in done.stdout:
        return "the key in ~/.ssh/authorized_keys opens the session's sshd"
    raise PermissionError(errno.EACCES, done.stderr.strip().splitlines()[-1])


def system_files() -> str:
    """Write to files of the image that every login reads, or that an administrator may run inside."""
    failures: list[OSError] = []
    paths = [
        "/etc/profile",
        "/etc/bash.bashrc",
        "/etc/ld.so.preload",
        "/etc/ssh/sshd_config",
        "/root/.bashrc",
    ]
    paths += ["/usr/bin/probe", "/usr/sbin/sshd", "/etc/profile.d/probe.sh", "/etc/cron.d/probe"]
    for path in paths:
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o644))
        except OSError as error:
            failures.append(error)
        else:
            return f"{path} can be written"
    raise failures[-1]
