"""Notices for users without a session. A cluster has no place for them: the routers run elsewhere."""

from collections.abc import Callable, Collection

from gateway.domain.notice import Notice


class NoNotices:
    def update(self, user_id: str, wanted: Callable[[], Notice | None]) -> None:
        pass

    def get(self, user_id: str) -> Notice | None:
        return None

    def users(self) -> Collection[str]:
        return ()
