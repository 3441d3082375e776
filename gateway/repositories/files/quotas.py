"""The kernel's user quotas, by quotactl_fd(2), which needs neither a block device nor a program.

User quotas, not project quotas: the owner of a file can move it to another project (`chattr -p`) and so out
of the quota, but cannot give it to another user.
"""

import ctypes
import os
from pathlib import Path

# From linux/quota.h and linux/dqblk_xfs.h. Linux has the call since 5.14, with one number on every
# architecture.
_QUOTACTL_FD = 443
_SET_QUOTA, _GET_STATE = 0x800008, 0x5805
_OF_USERS = 0
_LIMITS_ENFORCED = 1 << 1
_BLOCK_AND_INODE_LIMITS = 1 | 4
_BLOCK_BYTES = 1024
_BYTES_PER_INODE = 16 * 1024  # the default of mkfs.ext4, so that inodes last as long as bytes


class _State(ctypes.Structure):
    """struct fs_quota_stat; only its flags are read. The kernel writes 80 bytes."""

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
    """Whether the file system of `directory`, or of its nearest existing parent, enforces user quotas."""
    while not directory.exists():
        directory = directory.parent
    state = _State()
    try:
        _quotactl(directory, _GET_STATE, 0, state)
    except OSError:  # the file system has no quotas, or the kernel lacks the call
        return False
    return bool(state.flags & _LIMITS_ENFORCED)


def limit(directory: Path, uid: int, size: int) -> None:
    """Limit `uid` to `size` bytes on the file system of `directory`. Raises `OSError`."""
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
