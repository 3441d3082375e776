"""Text in aligned columns, with colours on a terminal."""

from collections.abc import Iterable, Iterator, Sequence

import click

Row = Sequence[str]


class Table:
    """A table whose columns are as wide as their heading and their widest cell so far."""

    def __init__(self, headings: Row) -> None:
        self._headings = headings
        self._widths = [len(heading) for heading in headings]

    def lines(
        self, rows: Iterable[Row], colours: Sequence[str | None] | None = None, with_headings: bool = True
    ) -> Iterator[str]:
        """Return one line for each row, in its colour for `click.style`; None means no colour."""
        rows = [[printable(cell) for cell in row] for row in rows]
        colours = [None] * len(rows) if colours is None else colours
        for row in rows:
            self._widths = [max(width, len(cell)) for width, cell in zip(self._widths, row, strict=True)]
        if with_headings:
            yield click.style(self._line(self._headings), bold=True)
        for row, fg in zip(rows, colours, strict=True):
            yield click.style(self._line(row), fg=fg) if fg else self._line(row)

    def _line(self, row: Row) -> str:
        padded = [cell.ljust(width) for cell, width in zip(row, self._widths, strict=True)]
        return "  ".join(padded).rstrip()


def printable(text: str) -> str:
    """Return `text` as one line without control characters, because containers can produce parts of it."""
    return "".join(each if each.isprintable() else "?" for each in " ".join(text.split()))
