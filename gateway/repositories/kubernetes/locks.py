"""Locks that every process of the gateway sees, and that end with their process."""

from collections.abc import Collection
from contextlib import AbstractContextManager
from typing import Protocol


class Locks(Protocol):
    def hold(self, name: str) -> AbstractContextManager[None]: ...
    def held(self, names: Collection[str]) -> set[str]: ...
