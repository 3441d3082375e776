"""The routes of the pipe file, read again only when it has changed.

What SSHPiper would refuse (an open mode, broken YAML) lets nobody in here either: the last good
content is not kept, for it could hold a pipe that somebody meant to take away.
"""

import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from gateway.domain.pipe import is_lobby
from gateway.domain.pipe_file import PipeFile
from gateway.errors import PipesUnavailable
from gateway.router.route import Route

log = logging.getLogger(__name__)

Report = Callable[..., None]  # as `logging.log`
Named = tuple[str, Route | None]  # None: the user's pipe must not be served, and no later one is


class Routes:
    """`version` counts the readings; `readable` is False while it is unknown who has a route. A file that is
    missing or empty is one that the gateway is about to write: with no route it would have a list of none."""

    def __init__(self, path: Path, report: Report = log.log) -> None:
        self._path = path
        self._report = report
        self._signature: tuple[int, ...] | None = None
        self._by_name: dict[str, tuple[float, Route | None]] = {}
        self._by_pattern: list[tuple[float, Route]] = []
        self._lines: dict[str, list[Named]] = {}
        self._faults: set[str] = set()
        self.readable = True
        self.version = 0

    def find(self, username: str) -> Route | None:
        """The first pipe of the file that matches, as the file is now."""
        self.refresh()
        place, exact = self._by_name.get(username, (math.inf, None))
        return next(
            (route for at, route in self._by_pattern if at < place and route.matches(username)), exact
        )

    def refresh(self) -> None:
        if _signature(self._path) == self._signature:
            return
        self.version += 1
        try:
            self._signature, text = _read(self._path)
            self._arrange(self._named(PipeFile.parse(text)))
            self.readable = bool(text.strip())
        except (OSError, PipesUnavailable) as error:
            self._signature = _signature(self._path)
            self._arrange(())
            self.readable = False
            self._report(logging.ERROR, "nobody gets in", extra={"error": str(error)})

    def _arrange(self, named: Iterable[Named]) -> None:
        by_name: dict[str, tuple[float, Route | None]] = {}
        by_pattern: list[tuple[float, Route]] = []
        for place, (username, route) in enumerate(named):
            if route and route.match.pattern:
                by_pattern.append((place, route))
            else:
                by_name.setdefault(username, (place, route))
        self._by_name, self._by_pattern = by_name, by_pattern

    def _named(self, file: PipeFile) -> Iterator[Named]:
        """Every `from` of the file in its order. The gateway's lines that were there before are known."""
        faults, self._faults = self._faults, set()
        above, below = file.handwritten()
        yield from (named for entry in above for named in self._routes(entry))
        lines = {line: self._lines.get(line) or list(self._routes(file.entry(line))) for line in file.lines}
        self._lines = lines
        yield from (named for line in file.lines for named in lines[line])
        yield from (named for entry in below for named in self._routes(entry))
        for fault in self._faults - faults:
            self._report(logging.WARNING, fault)

    def _routes(self, entry: Mapping[str, Any]) -> Iterator[Named]:
        """Pipes into the lobby are for SSHPiper: this router reads the notices itself."""
        if is_lobby(entry.get("session_id")):
            return
        for source in entry.get("from") or ():
            username = str(source.get("username") or "")
            try:
                yield username, Route.of(entry, source, self._path.parent)
            except ValueError as error:
                self._faults.add(f"a pipe is not served: from {username!r}: {error}")
                yield username, None


def _signature(path: Path) -> tuple[int, ...]:
    try:
        return _signed(path.stat())
    except OSError as error:
        return (-(error.errno or 0),)


def _signed(found: os.stat_result) -> tuple[int, ...]:
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _read(path: Path) -> tuple[tuple[int, ...], str]:
    """What SSHPiper takes from it: nothing from a file that is not there, an error from an open one."""
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if found.st_mode & 0o077:
                raise PipesUnavailable(f"The pipe file is open to others: chmod 600 {path.name}")
            return _signed(found), file.read().decode()
    except FileNotFoundError:
        return _signature(path), ""
    except UnicodeDecodeError:
        raise PipesUnavailable("The pipe file is not UTF-8; correct it by hand.") from None
