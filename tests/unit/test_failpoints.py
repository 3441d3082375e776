import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway import failpoints
from gateway.errors import StartRefused, Unavailable


@pytest.fixture(autouse=True)
def _off_again() -> Iterator[None]:
    yield
    failpoints.arm("")


def test_each_registered_failpoint_is_in_the_code_once_and_no_other_is() -> None:
    code = "".join(path.read_text() for path in Path(failpoints.__file__).parent.rglob("*.py"))
    assert sorted(re.findall(r'\breach\("([^"]+)"', code)) == sorted(failpoints.PLACES)


def test_a_failpoint_fails_once_and_only_if_armed() -> None:
    failpoints.reach("after-end")
    failpoints.arm("after-end=error,after-activate=error")
    with pytest.raises(Unavailable, match="after-end"):
        failpoints.reach("after-end")
    failpoints.reach("after-end")


@pytest.mark.parametrize("text", ["after-lunch=kill", "after-end=explode", "after-end"])
def test_an_unknown_failpoint_or_action_stops_the_start_and_lists_the_known_ones(text: str) -> None:
    with pytest.raises(StartRefused, match="after-container-start") as refused:
        failpoints.arm(text)
    assert "\n" not in str(refused.value)
