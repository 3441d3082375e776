"""SSHPiper's pipe file, which the gateway writes and both routers read.

The gateway's own pipes are lines of JSON between two marks inside the list `pipes`. The gateway keeps every
other byte of the file. JSON is valid YAML, so SSHPiper can read the file, and the gateway parses a thousand
of its own pipes in milliseconds; ruamel parses only the rest.
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

from gateway.domain.pipe import Entry, Pipe, UserMatch
from gateway.errors import PipesUnavailable

_BEGIN = "# BEGIN pipes of the GPU SSH Gateway"  # whatever follows on its line
BEGIN = f"{_BEGIN}: it rewrites the lines between these marks"
END = "# END pipes of the GPU SSH Gateway"

_SKELETON = 'version: "1.0"\npipes:\n'
_BEGIN_LINE = re.compile(rf"([ \t]*){_BEGIN}.*?(\r?\n)")
_END_LINE = re.compile(rf"[ \t]*{END}")
_PLACEHOLDER = {"session_id": "\x01"}


@dataclass(frozen=True, slots=True)
class PipeFile:
    """A pipe file in three parts: `head` ends with the first mark, `tail` starts with the second one."""

    head: str
    lines: tuple[str, ...]
    tail: str
    indent: str
    newline: str

    @classmethod
    def parse(cls, text: str) -> "PipeFile":
        """Parse a pipe file, and add the marks if it has none.

        Raises `PipesUnavailable` for every file that SSHPiper or the gateway could misread.
        """
        begins, ends = list(_marks(text, _BEGIN, _BEGIN_LINE)), list(_marks(text, END, _END_LINE))
        if not begins and not ends:
            return cls.parse(_with_marks(text or _SKELETON))
        if len(begins) != 1 or len(ends) != 1 or begins[0].end() > ends[0].start():
            raise PipesUnavailable(
                "The pipe file must have the gateway's BEGIN mark once, and its END mark once after it: "
                "correct it by hand."
            )
        begin, end = begins[0].end(), ends[0].start()
        lines = tuple(text[begin:end].splitlines(keepends=True))
        found = cls(text[:begin], lines, text[end:], *begins[0].groups())
        found.handwritten()
        return found

    def line(self, pipe: Pipe) -> str:
        return f"{self.indent}- {json.dumps(pipe.entry())}{self.newline}"

    def entry(self, line: str) -> Entry:
        """Return the entry in one of the gateway's own lines. Raises `PipesUnavailable`."""
        start, end = f"{self.indent}- {{", f"}}{self.newline}"
        if not line.startswith(start) or not line.endswith(end):
            raise _foreign_line()
        try:
            entry = json.loads(line[len(start) - 1 :], object_pairs_hook=_unique)
        except ValueError:
            raise _foreign_line() from None
        _require_pipe(entry)
        return entry  # type: ignore[no-any-return]

    def handwritten(self) -> tuple[tuple[Entry, ...], tuple[Entry, ...]]:
        """Return the hand-written pipes above the marks and those below them."""
        return _handwritten(self.head, f"{self.indent}- {json.dumps(_PLACEHOLDER)}{self.newline}", self.tail)

    def routes_elsewhere(self, username: str) -> bool:
        """Whether a pipe above the marks matches this user; SSHPiper takes the first pipe that matches."""
        above, _below = self.handwritten()
        return any(_matches(source, username) for entry in above for source in entry.get("from") or [])

    def parts(self, lines: Iterable[str]) -> Iterator[str]:
        """Return the file with `lines` between the marks, in parts, because it may be large."""
        yield self.head
        yield from lines
        yield self.tail


def _marks(text: str, mark: str, line: re.Pattern[str]) -> Iterator[re.Match[str]]:
    """Return the lines that begin with a mark. A regular expression alone would take 20 times as long to
    search a file of ten thousand pipes, while the router's logins wait."""
    at = text.find(mark)
    while at >= 0:
        if found := line.match(text, text.rfind("\n", 0, at) + 1):
            yield found
        end = text.find("\n", at)
        at = text.find(mark, end) if end >= 0 else -1


def _matches(source: Entry, username: str) -> bool:
    try:
        return UserMatch.of(source).matches(username)
    except ValueError:  # SSHPiper matches no one with an invalid expression
        return False


@lru_cache(maxsize=4)
def _handwritten(head: str, placeholder: str, tail: str) -> tuple[tuple[Entry, ...], tuple[Entry, ...]]:
    """Parse the file with a placeholder for the gateway's lines, and check that it is in the list `pipes`."""
    pipes = _load(head + placeholder + tail).get("pipes")
    if not isinstance(pipes, list) or pipes.count(_PLACEHOLDER) != 1:
        raise PipesUnavailable(
            "The gateway's marks in the pipe file are not inside its list `pipes`: move them there."
        )
    for entry in pipes:
        _require_pipe(entry)
    index = pipes.index(_PLACEHOLDER)
    return tuple(pipes[:index]), tuple(pipes[index + 1 :])


def _load(text: str) -> dict[str, Any]:
    try:
        document = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError) as error:
        # The parser's own message would quote the file, including private keys.
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark else ""
        raise PipesUnavailable(f"The pipe file is not valid YAML{where}: correct it by hand.") from None
    if document is not None and not isinstance(document, dict):
        raise PipesUnavailable("The pipe file is not a mapping with a list `pipes`: correct it by hand.")
    return document or {}


def _require_pipe(entry: object) -> None:
    """Raise `PipesUnavailable` for an entry that SSHPiper cannot decode: it then refuses every login."""
    if isinstance(entry, dict):
        sources, target = entry.get("from") or [], entry.get("to") or {}
        if isinstance(sources, list) and all(isinstance(item, dict) for item in [target, *sources]):
            return
    raise PipesUnavailable(
        "A pipe in the pipe file is not a mapping with a list `from` and a mapping `to`: correct it by hand."
    )


def _with_marks(text: str) -> str:
    """Return `text` with the marks below its hand-written pipes, so that those still match first."""
    newline = "\r\n" if "\r\n" in text else "\n"
    name, pipes = _pipes_node(text)
    if name is None:
        above, indent, below = _ended(text, newline) + "pipes:" + newline, "", ""
    elif isinstance(pipes, SequenceNode) and not pipes.flow_style:
        end_of_pipes, indent = _end_of(text, pipes), " " * pipes.start_mark.column
        above, below = text[:end_of_pipes], text[end_of_pipes:]
    elif not pipes.value or pipes.tag.endswith(":null"):
        # An empty value has no position of its own: the parser reports the position of what follows.
        start, end = (
            (pipes.start_mark, pipes.end_mark) if pipes.value or pipes.id == "sequence" else (name, name)
        )
        line, line_end, below = text[end.index :].partition("\n")
        above, indent = text[: start.index] + line + line_end, "  "
    else:
        raise PipesUnavailable(
            "The pipe file's `pipes` must be a block list, whose lines begin with a dash: correct it by hand."
        )
    marked = f"{_ended(above, newline)}{indent}{BEGIN}{newline}{indent}{END}{newline}{below}"
    if _meaning(marked) != _meaning(text):
        raise PipesUnavailable(
            "The gateway cannot add its marks to the pipe file safely: simplify its list `pipes`."
        )
    return marked


def _pipes_node(text: str) -> tuple[Any, Any]:
    """Return the end of the key `pipes` and its value; None for both if there is no such key."""
    _load(text)  # `compose` alone would let duplicate keys pass
    root = YAML(typ="safe", pure=True).compose(text)
    if not isinstance(root, MappingNode):
        return None, None
    named = ((name.end_mark, value) for name, value in root.value if name.value == "pipes")
    return next(named, (None, None))


def _end_of(text: str, pipes: SequenceNode) -> int:
    """Return the start of the line after the last pipe. Comments after it belong to what follows."""
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


def _foreign_line() -> PipesUnavailable:
    return PipesUnavailable(
        "The pipe file has a line between the gateway's marks that the gateway did not write: remove it, or "
        "move it above or below the marks."
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entry = dict(pairs)
    if len(entry) != len(pairs):
        raise ValueError("duplicate key")  # SSHPiper then refuses every login
    return entry
