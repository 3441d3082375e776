"""The range of uids, and the setting that names it."""

from itertools import islice

import pytest

from gateway.domain.uids import UidRange
from gateway.errors import StartRefused
from gateway.settings import Settings


@pytest.mark.parametrize(
    ("assigned", "first"),
    [
        ([], [100, 101, 102]),
        ([100, 101], [102, 103, 104]),
        ([101], [102, 103, 104]),  # 100 may have been somebody's
        ([104], [100, 101, 102]),  # above it there is none
        ([99, 105, 20000], [100, 101, 102]),  # of other ranges
        ([100, 102, 104], [101, 103]),
        ([100, 101, 102, 103, 104], []),
    ],
)
def test_uids_above_all_assigned_ones_come_first(assigned: list[int], first: list[int]) -> None:
    assert list(islice(UidRange(100, 104).unassigned(assigned), 3)) == first


def test_the_default_range_begins_where_it_always_did() -> None:
    assert str(Settings.load({}).uid_range) == "20000-59999"


def test_a_range_is_read_from_flag_and_variable() -> None:
    assert Settings.load({"GATEWAY_UID_RANGE": "70000-70099"}).uid_range == UidRange(70000, 70099)
    assert Settings.load({}, {"uid_range": "1000-1000"}).uid_range == UidRange(1000, 1000)


@pytest.mark.parametrize(
    "text",
    ["20000", "20000-", "a-b", "-1-5", "30000-20000", "0-100", "999-2000", "20000-2147483648", "1 - 2"],
)
def test_a_range_that_cannot_be_used_is_refused(text: str) -> None:
    with pytest.raises(StartRefused, match=r"--uid-range \(GATEWAY_UID_RANGE\): "):
        Settings.load({}, {"uid_range": text})
