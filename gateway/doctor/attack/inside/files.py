"""Out of the session by files: other people's, the host's, and those that open doors."""

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
    "/etc/resolv.conf /etc/hostname /etc/hosts".split()
)


def other_workspaces(users: list[str]) -> str:
    """Another user's workspace, where it would be and wherever a path could lead."""
    home = os.path.expanduser("~")
    others = [path for path in glob.glob("/home/*") if path != home]
    others += [
        path for user in users for path in (f"/home/{user}", f"{home}/../{user}", f"/srv/workspaces/{user}")
    ]
    for path in others:
        if os.path.lexists(path):
            return f"{path} is there"
    raise FileNotFoundError(errno.ENOENT, "no other workspace is there")


def host_files() -> str:
    """A directory of the host that is mounted besides the workspace and the session's own files."""
    home = os.path.expanduser("~")
    with open("/proc/self/mountinfo") as file:
        for line in file:
            fields, kind = line.split(" - ")[0].split(), line.split(" - ")[1].split()[0]
            place = fields[4]
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
            if from_disk and os.path.realpath(place) not in _OWN_MOUNTS | {home} and "nvidia" not in line:
                return f"{place} is mounted from the host"
    raise PermissionError("nothing of the host is mounted but what the session needs")


def daemon_sockets() -> str:
    """The sockets of Docker and containerd, or any other socket that something outside listens on."""
    paths = {
        "/var/run/docker.sock",
        "/run/docker.sock",
        "/run/containerd/containerd.sock",
        "/run/podman/podman.sock",
    }
    for directory, _, names in os.walk("/"):
        if not directory.startswith(("/proc", "/sys", "/dev")):
            paths |= {path for path in (os.path.join(directory, name) for name in names) if _is_socket(path)}
    for path in sorted(paths):
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


def own_keys() -> str:
    """Change who may log in, what sshd allows, or who one is."""
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


def second_door(port: int) -> str:
    """A key of one's own in ~/.ssh/authorized_keys, as a door that outlives the lease or lets a friend in."""
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
    """Files of the image that every login reads, or that an administrator runs inside."""
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
