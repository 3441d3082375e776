import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dashboard.chart import HEIGHT, WIDTH, columns


@given(st.lists(st.floats(0, 1e6), max_size=400))
def test_all_bars_lie_in_the_chart_and_the_largest_value_fills_it(values: list[float]) -> None:
    bars = list(columns(values))
    assert len(bars) == len(values)
    for bar in bars:
        assert 0 <= bar.x <= bar.x + bar.width <= WIDTH + 0.1
        assert bar.y + bar.height == pytest.approx(HEIGHT, abs=0.11)
    if any(values):
        assert max(bar.height for bar in bars) == HEIGHT


def test_a_value_that_is_half_as_large_has_a_bar_that_is_half_as_high() -> None:
    first, second = columns([2.0, 1.0])
    assert (first.height, second.height) == (HEIGHT, HEIGHT / 2)
    assert first.x + first.width <= second.x
