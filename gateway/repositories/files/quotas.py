"""Disk quotas of users, as the kernel keeps them: quotactl_fd(2), which asks for no block device and no tool.

Of users, not of projects: the owner of a file may move it to another project (`chattr -p`), and out of its
quota; whose it is he cannot change.
"""

import ctypes
import os
from pathlib import Path

# linux/quota.h, linux/dqblk_xfs.h; the call has one number on every architecture, since Linux 5.14
_QUOTACTL_FD = 443
_SET_QUOTA, _GET_STATE = 0x800008, 0x5805
_OF_USERS = 0
_LIMITS_ENFORCED = 1 << 1
_BLOCK_AND_INODE_LIMITS = 1 | 4
_BLOCK_BYTES = 1024
_BYTES_PER_INODE = 16 * 1024  # mkfs.ext4's own ratio: nobody gets more of the inodes than of the bytes


class _State(ctypes.Structure):
    """struct fs_quota_stat, as far as its flags; the kernel writes 80 bytes."""

    _fields_ = [("version", ctypes.c_int8), ("flags", ctypes.c_uint16), ("rest", ctypes.c_char * 96)]


class _Limits(ctypes.Structure):
    """struct if_dqblk."""

    _fields_ = [
        ("hard_blocks", ctypes.c_uint64),
        ("soft_blocks", ctypes.c_uint64),
        ("bytes", ctypes.c_uint64),
        ("hard_inodes", ctypes.c_uint64),
        ("soft_inodes", ctypes.c_uint64),
        ("inodes", ctypes.c_uint64),
        ("block_time", ctypes.c_uint64),
        ("inode_time", ctypes.c_uint64),
        ("valid", ctypes.c_uint32),
    ]


def are_enforced(directory: Path) -> bool:
    """Whether the file system of `directory`, or of what is above it as long as it is not there, keeps users
    to limits."""
    while not directory.exists():
        directory = directory.parent
    state = _State()
    try:
        _quotactl(directory, _GET_STATE, 0, state)
    except OSError:  # it has none, or the kernel does not have the call
        return False
    return bool(state.flags & _LIMITS_ENFORCED)


def limit(directory: Path, uid: int, size: int) -> None:
    """On the file system of `directory`, `uid` holds at most `size` bytes. Raises `OSError`."""
    blocks, inodes = size // _BLOCK_BYTES, size // _BYTES_PER_INODE
    limits = _Limits(hard_blocks=blocks, soft_blocks=blocks, hard_inodes=inodes, soft_inodes=inodes)
    limits.valid = _BLOCK_AND_INODE_LIMITS
    _quotactl(directory, _SET_QUOTA, uid, limits)


def _quotactl(directory: Path, command: int, id: int, argument: ctypes.Structure) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if libc.syscall(_QUOTACTL_FD, descriptor, command << 8 | _OF_USERS, id, ctypes.byref(argument)):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(descriptor)
