"""The geometry of the bar charts, in the units of an SVG's viewBox. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 960, 200
_SHARE = 0.8  # of its step that a bar fills


@dataclass(frozen=True, slots=True)
class Bar:
    x: float
    y: float
    width: float
    height: float


def columns(values: Sequence[float]) -> Iterator[Bar]:
    """A column for each value, side by side; the largest is as high as the chart."""
    step, largest = WIDTH / max(1, len(values)), max(values, default=0)
    for index, value in enumerate(values):
        height = HEIGHT * value / largest if largest else 0
        x, y, width = index * step, HEIGHT - height, step * _SHARE
        yield Bar(round(x, 1), round(y, 1), round(width, 1), round(height, 1))
