"""Disks that fail under a directory: one that is lost, one that is silent, and one that can only be read."""

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CAN_MOUNT = os.geteuid() == 0 and "FAKEROOTKEY" not in os.environ and os.access("/dev/fuse", os.W_OK)
_MNT_DETACH = 2  # linux/fs.h


@contextmanager
def lost(directory: Path) -> Iterator[None]:
    """As a network file system whose server has gone: each access fails with ENOTCONN."""
    with _mounted(directory) as server:
        os.close(server)
        yield


@contextmanager
def silent(directory: Path) -> Iterator[None]:
    """As a network file system whose server does not answer: each access waits until the end of the block."""
    with _mounted(directory) as server:
        try:
            yield
        finally:
            os.close(server)


@contextmanager
def _mounted(directory: Path) -> Iterator[int]:
    """A file system of FUSE. This process would have to answer for it, by the descriptor."""
    libc = ctypes.CDLL(None, use_errno=True)
    server = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={server},rootmode=40000,user_id=0,group_id=0".encode()
    if libc.mount(b"failing", os.fsencode(directory), b"fuse", 0, options):
        os.close(server)
        raise OSError(ctypes.get_errno(), "cannot mount a file system of FUSE")
    try:
        yield server
    finally:
        libc.umount2(os.fsencode(directory), _MNT_DETACH)


@contextmanager
def read_only(directory: Path) -> Iterator[None]:
    """As the kernel makes a disk after an error."""
    subprocess.run(["mount", "--bind", directory, directory], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", directory], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)
