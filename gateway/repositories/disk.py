"""The disks of this host, for limits on block I/O."""

import os
from pathlib import Path

NO_DISK = "--session-io cannot be enforced: {path} is not on a disk whose I/O the kernel can limit."
_DEVICES = Path("/sys/dev/block")


def disk_of(path: Path, devices: Path = _DEVICES) -> str | None:
    """Return the device that holds `path`, such as /dev/sda. Of a partition it is the whole disk, because the
    kernel limits only whole disks. None if no single device does, as with NFS, ZFS, btrfs and tmpfs.
    """
    number = path.stat().st_dev
    found = devices / f"{os.major(number)}:{os.minor(number)}"
    if not found.exists():
        return None
    device = found.resolve()
    disk = device.parent if (device / "partition").exists() else device
    return f"/dev/{disk.name.replace('!', '/')}"  # the kernel writes `!` for a slash
