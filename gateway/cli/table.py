"""Text in aligned columns, coloured on a terminal and plain elsewhere."""

import os
from collections.abc import Iterable, Iterator, Sequence

import click

Row = Sequence[str]


def colour() -> bool | None:
    """For `click.echo`: None leaves it to where the output goes."""
    return False if os.environ.get("NO_COLOR") else None


class Table:
    """Columns as wide as their heading and the widest cell so far; the last one as wide as it needs."""

    def __init__(self, headings: Row) -> None:
        self._headings = headings
        self._widths = [len(heading) for heading in headings]

    def lines(self, rows: Iterable[Row], colours: Iterable[str | None], headed: bool = True) -> Iterator[str]:
        """A line a row, in its colour of `click.style`; None: in none."""
        rows = [[printable(cell) for cell in row] for row in rows]
        for row in rows:
            self._widths = [max(width, len(cell)) for width, cell in zip(self._widths, row, strict=True)]
        if headed:
            yield click.style(self._line(self._headings), bold=True)
        for row, fg in zip(rows, colours, strict=True):
            yield click.style(self._line(row), fg=fg) if fg else self._line(row)

    def _line(self, row: Row) -> str:
        padded = [cell.ljust(width) for cell, width in zip(row, self._widths, strict=True)]
        return "  ".join(padded).rstrip()


def printable(text: str) -> str:
    """In one line, without what would steer a terminal: some of it was said inside of containers."""
    return "".join(each if each.isprintable() else "?" for each in " ".join(text.split()))
