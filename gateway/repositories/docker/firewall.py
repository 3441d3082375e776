"""iptables, asked by command."""

import subprocess

from gateway.errors import NetworkUnavailable

_DONE, _NOT_THERE = 0, (1, 2)  # exit codes; others are that it could not look


def iptables(*arguments: str, may_fail: bool = False) -> bool:
    """Whether it was done; with `may_fail` it is no error when it was not. Raises `NetworkUnavailable`."""
    try:
        done = subprocess.run(["iptables", "-w", "5", *arguments], capture_output=True, text=True, timeout=10)
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise NetworkUnavailable(
            "iptables is missing or hangs; the gateway needs it to close the sessions' network."
        ) from error
    if done.returncode not in (_DONE, *_NOT_THERE) or (done.returncode and not may_fail):
        said = " ".join(done.stderr.split())
        raise NetworkUnavailable(f"iptables cannot look at the sessions' network, or close it: {said}")
    return done.returncode == _DONE


class Chain:
    """A chain of the gateway's own, which `parent` goes through first for what `matches`."""

    def __init__(
        self, name: str, parent: str, rules: tuple[tuple[str, ...], ...], matches: tuple[str, ...] = ()
    ) -> None:
        self.name = name
        self._jump = parent, *matches, "-j", name
        self._parent = parent
        self._rules = rules

    def stands(self) -> bool:
        return all(iptables("-C", self.name, *rule, may_fail=True) for rule in self._rules) and iptables(
            "-C", *self._jump, may_fail=True
        )

    def ensure(self) -> None:
        if self.stands():
            return
        iptables("-N", self.name, may_fail=True)
        iptables("-F", self.name)
        for rule in self._rules:
            iptables("-A", self.name, *rule)
        if not iptables("-C", *self._jump, may_fail=True):
            iptables("-I", self._parent, "1", *self._jump[1:])

    def remove(self) -> None:
        iptables("-D", *self._jump, may_fail=True)
        iptables("-F", self.name, may_fail=True)
        iptables("-X", self.name, may_fail=True)
