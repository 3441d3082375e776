"""Notices in memory, with the methods of `repositories.files.notices.NoticeFiles`."""

from collections.abc import Callable

from gateway.domain.notice import Notice


class FakeNotices:
    def __init__(self) -> None:
        self._notices: dict[str, Notice] = {}
        self._failure: Exception | None = None

    def fail(self, error: Exception | None) -> None:
        """Every update raises `error` until `error` is None."""
        self._failure = error

    def update(self, user_id: str, wanted: Callable[[], Notice | None]) -> None:
        if self._failure:
            raise self._failure
        if notice := wanted():
            self._notices[user_id] = notice
        else:
            self._notices.pop(user_id, None)

    def get(self, user_id: str) -> Notice | None:
        return self._notices.get(user_id)

    def all(self) -> dict[str, Notice | None]:
        return dict(self._notices)

    def users(self) -> set[str]:
        return set(self._notices)
