"""How full a workspace is compared with its quota. Sizes are in bytes. Pure."""

from enum import IntEnum

_NEARLY = 0.9
_GIB = 2**30


class Fill(IntEnum):
    """Of a quota."""

    ROOM = 0
    NEARLY = 1
    FULL = 2

    @classmethod
    def of(cls, used: int, quota: int) -> "Fill":
        return cls.FULL if used >= quota else cls.NEARLY if used >= _NEARLY * quota else cls.ROOM


def describe(used: int, quota: int) -> str:
    return f"{gib(used)} of {gib(quota)} are used"


def gib(size: int) -> str:
    return f"{size / _GIB:.1f} GiB"
