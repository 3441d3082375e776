"""Out of the session by a device: the machine's memory and disks, and GPUs that are not one's own."""

import errno
import glob
import shutil
import subprocess

_HARMLESS = set(
    "console core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero".split()
)


def machine_memory() -> str:
    """Memory, ports and disks of the machine, its log and its switches."""
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
                    return f"{path} opens"
        except OSError as error:
            failures.append(error)
        else:
            failures.append(PermissionError(errno.EACCES, f"{path} is masked"))
    raise failures[0]


def foreign_devices() -> str:
    """Devices that no session needs; NVIDIA's are looked at by `second_gpu`."""
    for path in glob.glob("/dev/**", recursive=True):
        name = path.removeprefix("/dev/").split("/")[0]
        if name and name not in _HARMLESS and not name.startswith("nvidia"):
            return path
    raise PermissionError("nothing in /dev but the harmless ones")


def second_gpu() -> str:
    """More than the one slice that the session was given."""
    if not shutil.which("nvidia-smi"):
        raise NotImplementedError("there is no NVIDIA driver in this session")
    listed = subprocess.run(
        ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False
    ).stdout
    if listed.count("(UUID: MIG-") > 1 or not listed.count("(UUID: MIG-"):
        return listed
    raise PermissionError("one MIG device is all that there is")
