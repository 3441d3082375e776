"""What a measurement is, and how it is shown: medians, their ratio, the goal."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Row:
    """One line of the table: `subject` is ours, `baseline` what it is held against, in the same unit.

    Without a baseline the figure is `subject` itself, in `unit`.
    """

    name: str
    what: str
    over: str
    subject: Sequence[float]
    baseline: Sequence[float] = ()
    unit: str = "s"
    goal: float | None = None  # None: only told, as an aid to reading the others
    at_least: bool = False  # the goal is a lower bound
    quantile: float = 0.5
    note: str = ""

    @property
    def figure(self) -> float:
        ours = quantile(self.subject, self.quantile)
        return ours / quantile(self.baseline, self.quantile) if self.baseline else ours

    @property
    def met(self) -> bool | None:
        if self.goal is None:
            return None
        return self.figure >= self.goal if self.at_least else self.figure <= self.goal

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "what": self.what,
            "over": self.over,
            "figure": self.figure,
            "goal": self.goal,
            "goal_is": "at least" if self.at_least else "at most",
            "met": self.met,
            "unit": self.unit,
            "quantile": self.quantile,
            "subject_median": median(self.subject),
            "baseline_median": median(self.baseline) if self.baseline else None,
            "note": self.note,
            "subject": list(self.subject),
            "baseline": list(self.baseline),
        }


def quantile(values: Sequence[float], share: float) -> float:
    """The median for 0.5; else the smallest value that at least `share` of all do not exceed."""
    if share == 0.5:
        return median(values)
    return sorted(values)[math.ceil(share * len(values)) - 1]


def table(rows: Sequence[Row]) -> str:
    heading = ("what", "over", "ours", "theirs", "ratio", "goal", "met?")
    lines = [heading, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    rule = "-" * max(map(len, text))
    notes = [f"{row.what}: {row.note}" for row in rows if row.note]
    return "\n".join([text[0], rule, *text[1:], "", *notes])


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.what,
        row.over,
        _amount(quantile(row.subject, row.quantile), row.unit),
        _amount(quantile(row.baseline, row.quantile), row.unit) if row.baseline else "",
        _ratio(row.figure) if row.baseline else "",
        _goal(row),
        {True: "yes", False: "NO", None: ""}[row.met],
    )


def _goal(row: Row) -> str:
    if row.goal is None:
        return ""
    goal = _ratio(row.goal) if row.baseline else f"{row.goal:g} {row.unit}"
    return f"{'≥' if row.at_least else '≤'} {goal}"


def _ratio(value: float) -> str:
    return f"1/{1 / value:.0f}" if 0 < value < 0.05 else f"{value:.2f}"


def _amount(value: float, unit: str) -> str:
    if unit == "s" and value < 1:
        return f"{1000 * value:.3g} ms"
    return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def progress(name: str, done: int, total: int) -> None:
    end = "\n" if done == total else ""
    print(f"\r{name}: {done}/{total}", end=end, file=sys.stderr, flush=True)
