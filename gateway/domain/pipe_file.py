"""SSHPiper's pipe file, which the service writes and both routers read.

The gateway's own pipes stand between two marks inside the list `pipes`, each on one line of JSON;
every other byte belongs to whoever wrote it and is kept. JSON is YAML, so SSHPiper reads the file
as it is, while here a thousand pipes parse in milliseconds and ruamel sees only the rest.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, SequenceNode

from gateway.domain.pipe import Entry, Pipe
from gateway.errors import PipesUnavailable

BEGIN = "# BEGIN pipes of the GPU SSH Gateway: it rewrites the lines between these marks"
END = "# END pipes of the GPU SSH Gateway"

_SKELETON = 'version: "1.0"\npipes:\n'
_BEGIN_LINE = re.compile(r"^([ \t]*)# BEGIN pipes of the GPU SSH Gateway.*?(\r?\n)", re.MULTILINE)
_END_LINE = re.compile(r"^[ \t]*# END pipes of the GPU SSH Gateway", re.MULTILINE)
_STAND_IN = {"session_id": "\x01"}


@dataclass(frozen=True, slots=True)
class PipeFile:
    """A pipe file cut in three: `head` ends with the first mark, `tail` starts with the second."""

    head: str
    lines: tuple[str, ...]
    tail: str
    indent: str
    newline: str

    @classmethod
    def parse(cls, text: str) -> "PipeFile":
        """Raises PipesUnavailable for all that SSHPiper or the gateway could misunderstand; marks are put
        where they are missing."""
        begins, ends = list(_BEGIN_LINE.finditer(text)), list(_END_LINE.finditer(text))
        if not begins and not ends:
            return cls.parse(_with_marks(text or _SKELETON))
        if len(begins) != 1 or len(ends) != 1 or begins[0].end() > ends[0].start():
            raise PipesUnavailable(
                "The pipe file must have each of the gateway's marks once, in their order."
            )
        begin, end = begins[0].end(), ends[0].start()
        lines = tuple(text[begin:end].splitlines(keepends=True))
        found = cls(text[:begin], lines, text[end:], *begins[0].groups())
        found.handwritten()
        return found

    def line(self, pipe: Pipe) -> str:
        return f"{self.indent}- {json.dumps(pipe.entry())}{self.newline}"

    def entry(self, line: str) -> Entry:
        """What one of the gateway's own lines says."""
        start, end = f"{self.indent}- {{", f"}}{self.newline}"
        if not line.startswith(start) or not line.endswith(end):
            raise _not_ours()
        try:
            entry = json.loads(line[len(start) - 1 :], object_pairs_hook=_unique)
        except ValueError:
            raise _not_ours() from None
        _require_pipe(entry)
        return entry  # type: ignore[no-any-return]

    def entries(self) -> Iterator[Entry]:
        """Every pipe in the order of the file: the first that matches wins."""
        above, below = self.handwritten()
        yield from above
        yield from map(self.entry, self.lines)
        yield from below

    def handwritten(self) -> tuple[tuple[Entry, ...], tuple[Entry, ...]]:
        """The pipes above the marks and those below them."""
        return _handwritten(self.head, f"{self.indent}- {json.dumps(_STAND_IN)}{self.newline}", self.tail)

    def routes_elsewhere(self, username: str) -> bool:
        """Whether a pipe above the marks takes this user: SSHPiper serves the first that fits."""
        above, _below = self.handwritten()
        return any(_fits(source, username) for entry in above for source in entry.get("from") or [])

    def parts(self, lines: Iterable[str]) -> Iterator[str]:
        """The whole file with `lines` between the marks, piece by piece: it may be large."""
        yield self.head
        yield from lines
        yield self.tail


def _fits(source: Entry, username: str) -> bool:
    meant = str(source.get("username") or "")
    if source.get("username_regex_match") is not True:
        return meant == username
    try:
        return re.search(meant, username) is not None
    except re.error:  # nobody gets in by it
        return False


@lru_cache(maxsize=4)
def _handwritten(head: str, stand_in: str, tail: str) -> tuple[tuple[Entry, ...], tuple[Entry, ...]]:
    """Parsed with a stand-in for the gateway's lines: when it is found in the list, they are well placed."""
    pipes = _load(head + stand_in + tail).get("pipes")
    if not isinstance(pipes, list) or pipes.count(_STAND_IN) != 1:
        raise PipesUnavailable("The gateway's marks in the pipe file do not stand in its list `pipes`.")
    for entry in pipes:
        _require_pipe(entry)
    place = pipes.index(_STAND_IN)
    return tuple(pipes[:place]), tuple(pipes[place + 1 :])


def _load(text: str) -> dict[str, Any]:
    try:
        document = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError) as error:
        # The parser's own message would quote the file, private keys and all.
        mark = getattr(error, "problem_mark", None)
        place = f" (line {mark.line + 1})" if mark else ""
        raise PipesUnavailable(f"The pipe file is not valid YAML{place}; correct it by hand.") from None
    if document is not None and not isinstance(document, dict):
        raise PipesUnavailable("The pipe file is not a mapping with a list `pipes`; correct it by hand.")
    return document or {}


def _require_pipe(entry: object) -> None:
    """SSHPiper refuses every login when it cannot decode one entry."""
    if isinstance(entry, dict):
        sources, target = entry.get("from") or [], entry.get("to") or {}
        if isinstance(sources, list) and all(isinstance(item, dict) for item in [target, *sources]):
            return
    raise PipesUnavailable("A pipe in the pipe file is not a mapping with a list `from` and a mapping `to`.")


def _with_marks(text: str) -> str:
    """`text` with the marks below its hand-written pipes, which so stay the first to match."""
    newline = "\r\n" if "\r\n" in text else "\n"
    name, pipes = _pipes_node(text)
    if name is None:
        above, indent, below = _ended(text, newline) + "pipes:" + newline, "", ""
    elif isinstance(pipes, SequenceNode) and not pipes.flow_style:
        place, indent = _end_of(text, pipes), " " * pipes.start_mark.column
        above, below = text[:place], text[place:]
    elif not pipes.value or pipes.tag.endswith(":null"):
        # An empty value has no place of its own: the parser puts it before whatever comes next.
        start, end = (
            (pipes.start_mark, pipes.end_mark) if pipes.value or pipes.id == "sequence" else (name, name)
        )
        line, line_end, below = text[end.index :].partition("\n")
        above, indent = text[: start.index] + line + line_end, "  "
    else:
        raise PipesUnavailable("The pipe file's `pipes` must be a list of lines that begin with a dash.")
    marked = f"{_ended(above, newline)}{indent}{BEGIN}{newline}{indent}{END}{newline}{below}"
    if _meaning(marked) != _meaning(text):
        raise PipesUnavailable(
            "The pipe file has no safe place for the gateway's marks; simplify its `pipes`."
        )
    return marked


def _pipes_node(text: str) -> tuple[Any, Any]:
    """Where the name `pipes` ends and what stands there; None where there is no such name."""
    _load(text)  # `compose` alone would let duplicate keys pass
    root = YAML(typ="safe", pure=True).compose(text)
    if not isinstance(root, MappingNode):
        return None, None
    named = ((name.end_mark, value) for name, value in root.value if name.value == "pipes")
    return next(named, (None, None))


def _end_of(text: str, pipes: SequenceNode) -> int:
    """Where the line after the last pipe begins; comments in between belong to what follows."""
    lines = text[: pipes.end_mark.index].splitlines(keepends=True)
    comment = re.compile(rf"\s*$|[ \t]{{0,{pipes.start_mark.column}}}#")
    while lines and comment.match(lines[-1]):
        lines.pop()
    return len("".join(lines))


def _ended(text: str, newline: str) -> str:
    return text if not text or text.endswith("\n") else text + newline


def _meaning(text: str) -> dict[str, Any]:
    document = _load(text)
    return {**document, "pipes": document.get("pipes") or []}


def _not_ours() -> PipesUnavailable:
    return PipesUnavailable("The pipe file has a line between the gateway's marks that it did not write.")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entry = dict(pairs)
    if len(entry) != len(pairs):
        raise ValueError("duplicate key")  # for which SSHPiper refuses every login
    return entry
