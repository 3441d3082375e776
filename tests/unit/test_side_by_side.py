"""Closings that hang: they delay no other, and are not begun again."""

import threading
from collections import Counter
from collections.abc import Callable

from gateway.background.rounds import SideBySide
from tests.whole_gateway import eventually


def test_what_hangs_or_waits_is_not_begun_again_and_delays_nothing_new() -> None:
    closers, works, begun = SideBySide("closers"), threading.Event(), Counter[str]()

    def hang(number: str) -> Callable[[], None]:
        def act() -> None:
            begun[number] += 1
            assert works.wait(30)

        return act

    hanging = {number: hang(number) for number in map(str, range(20))}
    for _ in range(3):
        closers.do(hanging, 0.05)
    assert len(begun) == 8
    done = threading.Event()
    closers.do({**hanging, "new": done.set}, 10)
    assert done.is_set()
    works.set()
    eventually(lambda: len(begun) == 20)
    assert set(begun.values()) == {1}


def test_what_is_done_can_be_done_again_also_after_a_failure() -> None:
    closers, done = SideBySide("closers"), Counter[str]()

    def fail() -> None:
        done["failed"] += 1
        raise RuntimeError("a defect")

    for _ in range(2):
        closers.do({"a": fail}, 10)
    assert done == {"failed": 2}
