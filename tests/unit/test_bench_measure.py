"""The arithmetic of `make bench`."""

from tests.bench.measure import Row, quantile, table


def test_the_ratio_is_that_of_the_medians() -> None:
    row = Row("r", "ours", "theirs", [1.0, 2.0, 30.0], [1.0, 1.0, 9.0], goal=2.0)
    assert row.figure == 2.0
    assert row.met


def test_a_95th_percentile_is_a_value_that_was_measured() -> None:
    assert quantile([float(value) for value in range(1, 21)], 0.95) == 19.0
    assert quantile([7.0], 0.95) == 7.0


def test_a_lower_bound_is_missed_from_below() -> None:
    row = Row("r", "ours", "theirs", [50.0], [100.0], unit="/s", goal=0.6, at_least=True)
    assert row.met is False
    assert "≥ 0.60" in table([row])
    assert "NO" in table([row])


def test_what_has_no_goal_neither_meets_nor_misses_it() -> None:
    row = Row("r", "ours", "theirs", [1.0], [900.0])
    assert row.met is None
    assert "1/900" in table([row])
