"""The pages of lists."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from gateway.api.endpoints import Fields

T = TypeVar("T")


def fetched(limit: int | None) -> int | None:
    """Return how many items to read for a page: one more than it shows tells whether another page follows."""
    return None if limit is None else limit + 1


def page(
    name: str,
    items: Sequence[T],
    limit: int | None,
    show: Callable[[T], Fields],
    cursor: Callable[[T], str | int],
) -> Fields:
    """Return the body of a response with the first `limit` of the items.

    With a limit, `next` is the cursor of the last one, None if no other page follows."""
    shown = items[:limit]
    body: Fields = {name: [show(item) for item in shown]}
    if limit is not None:
        body["next"] = cursor(shown[-1]) if len(items) > limit else None
    return body
