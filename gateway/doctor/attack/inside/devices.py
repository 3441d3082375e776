"""Attempts at devices: the machine's memory and disks, and other GPUs."""

import errno
import glob
import shutil
import subprocess

_HARMLESS = set(
    "console core fd full mqueue null ptmx pts random shm stderr stdin stdout termination-log tty urandom "
    "zero".split()
)


def machine_memory() -> str:
    """Open the machine's memory, ports, disks, log and SysRq."""
    failures = []
    paths = [
        "/dev/mem",
        "/dev/kmem",
        "/dev/port",
        "/dev/kmsg",
        "/proc/kcore",
        "/proc/kmsg",
        "/proc/sysrq-trigger",
    ]
    for path in [*paths, *glob.glob("/dev/sd*"), *glob.glob("/dev/nvme*"), *glob.glob("/dev/vd*")]:
        try:
            with open(path, "wb" if path.endswith("trigger") else "rb", buffering=0) as file:
                if path.endswith("trigger") or file.read(16):
                    return f"{path} can be opened"
        except OSError as error:
            failures.append(error)
        else:
            failures.append(PermissionError(errno.EACCES, f"{path} is masked"))
    raise failures[0]


def foreign_devices() -> str:
    """Find devices that no session needs; `second_gpu` covers NVIDIA's."""
    for path in glob.glob("/dev/**", recursive=True):
        name = path.removeprefix("/dev/").split("/")[0]
        if name and name not in _HARMLESS and not name.startswith("nvidia"):
            return path
    raise PermissionError("/dev has only harmless devices")


def second_gpu() -> str:
    """Find more than the one MIG device of the session."""
    if not shutil.which("nvidia-smi"):
        raise NotImplementedError("there is no NVIDIA driver in this session")
    listed = subprocess.run(
        ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False
    ).stdout
    if listed.count("(UUID: MIG-") > 1 or not listed.count("(UUID: MIG-"):
        return listed
    raise PermissionError("there is exactly one MIG device")
