"""A process of the gateway that dies while it opens a session, without the end of the test's process."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gateway import failpoints


class _Killed(BaseException):
    pass


@contextmanager
def dying_at(place: str) -> Iterator[None]:
    """The block must reach the failpoint. It ends there, and undoes nothing."""

    def die(*_: object) -> None:
        raise _Killed

    failpoints.arm(f"{place}=error")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gateway.failpoints._act", die)
        patch.setattr("gateway.services.sessions.Sessions._undo", lambda *_: None)
        with pytest.raises(_Killed):
            yield
    failpoints.arm("")
