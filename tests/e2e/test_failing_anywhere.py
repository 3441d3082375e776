"""The process is killed, or an error raised, between any two steps of what the gateway does."""

from collections.abc import Iterator

import pytest

from gateway import failpoints
from tests.soak.sweep import CASES, Sweep, sweeping


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sweep]:
    with sweeping(tmp_path_factory.mktemp("sweep")) as sweep:
        yield sweep


_OF_THE_OPENER = ("after-line-leave", "after-put-back")


@pytest.mark.parametrize(("place", "action"), CASES)
def test_all_places_agree_again_within_a_tick(sweep: Sweep, place: str, action: str) -> None:
    outcome = sweep.fail(place, action)
    # A kill leaves no answer; an error is told, or the deletion is tried again or was done. Nobody asks for
    # a warning, a webhook, or for the turn in line.
    is_silent = action == "kill" or place in failpoints.WARN + failpoints.WEBHOOK + _OF_THE_OPENER
    assert (outcome.answer is None) if is_silent else (outcome.answer in (202, 204, 410, 503))
    sweep.require_the_healthy_one_unharmed()
    sweep.require_that_the_user_can_create_again()
