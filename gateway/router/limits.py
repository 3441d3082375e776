"""How many connections there may be: generous, for a whole institute may come from one address.

Only a flood reaches them, and a flood from one address leaves room for the others.
"""

from collections import Counter

MAX_PER_ADDRESS = 1000
MAX_HALF_OPEN = 400
MAX_HALF_OPEN_PER_ADDRESS = 200


class Limits:
    """Counts a connection from `arrived` to `left`, and as half open until `admitted`."""

    def __init__(self) -> None:
        self._all: Counter[str] = Counter()
        self._half_open: Counter[str] = Counter()

    def arrived(self, address: str) -> bool:
        """Whether there is room; it is counted in any case."""
        self._all[address] += 1
        self._half_open[address] += 1
        return (
            self._all[address] <= MAX_PER_ADDRESS
            and self._half_open[address] <= MAX_HALF_OPEN_PER_ADDRESS
            and self._half_open.total() <= MAX_HALF_OPEN
        )

    def admitted(self, address: str) -> None:
        _count_down(self._half_open, address)

    def left(self, address: str, *, was_admitted: bool) -> None:
        _count_down(self._all, address)
        if not was_admitted:
            _count_down(self._half_open, address)


def _count_down(counter: "Counter[str]", address: str) -> None:
    counter[address] -= 1
    if not counter[address]:
        del counter[address]
