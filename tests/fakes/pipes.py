"""Pipes in memory, with the methods of `repositories.pipes.Pipes`."""

import builtins
from collections.abc import Callable, Iterable

from gateway.domain.pipe import Pipe


class FakePipes:
    """`published` counts the publications."""

    def __init__(self, pipes: Iterable[Pipe] = (), handwritten: Iterable[str] = ()) -> None:
        self._pipes = {pipe.session_id: pipe for pipe in pipes}
        self._handwritten = set(handwritten)
        self.published = 0
        self._failures: dict[str, Exception] = {}

    def fail(self, verb: str, error: Exception | None) -> None:
        """`verb` raises `error` until `error` is None."""
        self._failures.pop(verb, None)
        if error is not None:
            self._failures[verb] = error

    def add(self, pipe: Pipe) -> None:
        self.update(lambda: pipe)

    def update(self, wanted: Callable[[], Pipe | None]) -> None:
        self._maybe_fail("add")
        if pipe := wanted():
            self._publish({**self._pipes, pipe.session_id: pipe})

    def remove(self, session_id: str) -> None:
        self._maybe_fail("remove")
        self._publish({key: pipe for key, pipe in self._pipes.items() if key != session_id})

    def replace(self, wanted: Callable[[], Iterable[Pipe]]) -> None:
        self._maybe_fail("replace")
        self._publish({pipe.session_id: pipe for pipe in wanted()})

    def list(self) -> builtins.list[Pipe]:
        self._maybe_fail("list")
        return builtins.list(self._pipes.values())

    def routed_elsewhere(self, users: Iterable[str]) -> set[str]:
        self._maybe_fail("routed_elsewhere")
        return self._handwritten & set(users)

    def version(self) -> int:
        return self.published

    def check(self) -> None:
        self._maybe_fail("check")

    def _maybe_fail(self, verb: str) -> None:
        if verb in self._failures:
            raise self._failures[verb]

    def _publish(self, pipes: dict[str, Pipe]) -> None:
        if pipes != self._pipes:
            self._pipes = pipes
            self.published += 1
