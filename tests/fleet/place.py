"""A place of a cluster's own on this machine: namespaces for its network, processes and mounts.

The kernel ends all that runs in the place when its first process ends, and that one ends with the tests,
however they end. Nothing but the directory is left then, which the next place removes.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from tests import own

_PREFIX = f"{own.name('fleet')}-"
_SECONDS = 30
_AT_ONCE = 4  # places of one process: each has a quarter of a subnet
_FIRST_PROCESS = "ip link set lo up; while :; do sleep 600 & wait; done"
_WRITTEN = ("/run", "/tmp", "/var/lib", "/var/log")  # no option makes Kubernetes and containerd leave them
_RESET = ("-i", "eth0", "-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset")
_DIES_WITH_THE_TESTS = ["setpriv", "--pdeathsig", "KILL"]


class Place:
    """`address` is the place's own, `host` that of the machine as the place sees it. Each can connect to the
    other; pods in `pods`, a subnet, are reached through the place."""

    _numbers: ClassVar[set[int]] = set()  # of the places that this process has now

    def __init__(self) -> None:
        if not self._numbers:
            _remove_leftovers()
        self._number = min(set(range(_AT_ONCE)) - self._numbers)
        self._numbers.add(self._number)
        self.directory = Path(tempfile.mkdtemp(prefix=_PREFIX, dir="/var/tmp"))
        self.directory.chmod(0o755)
        link, pods = own.subnet(199).removesuffix("0/24"), own.subnet(198).removesuffix("0/24")
        first = self._number * 64
        self.host, self.address = f"{link}{first + 1}", f"{link}{first + 2}"
        self.pods = f"{pods}{first}/26"
        self._refuses = False
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        namespaces = ["--net", "--pid", "--mount", "--fork", "--kill-child=KILL", "--mount-proc"]
        self._holder = subprocess.Popen(
            [*_DIES_WITH_THE_TESTS, "unshare", *namespaces, "sh", "-c", _FIRST_PROCESS],
            start_new_session=True,
        )
        self._first = _only_child(self._holder.pid)
        self._connect()
        self._cover()

    def join(self, other: "Place") -> None:
        """Lay a cable between two places: each reaches the other and its pods, whatever the firewall does."""
        ends = {self: f"place-{other._number}", other: f"place-{self._number}"}
        mine, peer = (["name", name, "netns", str(place._first)] for place, name in ends.items())
        _ip("link", "add", *mine, "type", "veth", "peer", *peer)
        for place, far in ((self, other), (other, self)):
            place.run(["ip", "link", "set", ends[place], "up"])
            way = ["dev", ends[place], "src", place.address]
            place.run(["ip", "route", "add", far.address, *way])
            place.run(["ip", "route", "add", far.pods, "via", far.address, *way])

    def _connect(self) -> None:
        link = f"{own.name('k')}-{self._number}"
        subprocess.run(["ip", "link", "delete", link], capture_output=True)
        _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(self._first))
        _ip("address", "add", f"{self.host}/30", "dev", link)
        _ip("link", "set", link, "up")
        self.run(["ip", "address", "add", f"{self.address}/30", "dev", "eth0"])
        self.run(["ip", "link", "set", "eth0", "up"])
        self.run(["ip", "route", "add", "default", "via", self.host])
        _ip("route", "replace", self.pods, "via", self.address)

    def _cover(self) -> None:
        """What the programs write into these directories of the machine stays in the place's memory."""
        memory = self.directory / "memory"
        memory.mkdir()
        self.run(["mount", "-t", "tmpfs", "none", memory])
        for directory in _WRITTEN:
            upper, work = memory / f"upper{directory}", memory / f"work{directory}"
            self.run(["mkdir", "--parents", upper, work])
            options = f"lowerdir={directory},upperdir={upper},workdir={work}"
            self.run(["mount", "-t", "overlay", "-o", options, "overlay", directory])

    def start(self, name: str, command: Sequence[str | Path], **environment: str) -> None:
        """Start a program in the place; `log(name)` is what it prints."""
        with open(self.directory / f"{name}.log", "ab") as log:
            self._processes[name] = subprocess.Popen(
                self.inside(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **environment},
            )

    def run(self, command: Sequence[str | Path]) -> str:
        done = subprocess.run(self.inside(command), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def refuse(self) -> None:
        """Refuse all connections of the machine to the place and its pods, also those that are open."""
        self._filter("--insert")
        self._refuses = True

    def accept(self) -> None:
        """End what `refuse` began, if it did."""
        if self._refuses:
            self._filter("--delete")
            self._refuses = False

    def _filter(self, action: str) -> None:
        for chain in ("INPUT", "FORWARD"):
            self.run(["iptables", "--wait", action, chain, *_RESET])

    def log(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text(errors="replace")

    def logs(self) -> str:
        """The ends of all."""
        files = sorted(self.directory.glob("*.log"))
        return "\n".join(f"{file.name}:\n{file.read_text(errors='replace')[-2000:]}" for file in files)

    def is_running(self, name: str) -> bool:
        return self._processes[name].poll() is None

    def stop(self, name: str, number: int = signal.SIGKILL) -> None:
        """Send the program a signal and wait for its end."""
        process = self._processes[name]
        if process.poll() is None:
            os.kill(_only_child(process.pid), number)
        process.wait(timeout=_SECONDS)

    def lose(self) -> None:
        """As a machine without power. The kernel ends everything inside, and the first process last."""
        self._holder.kill()
        for process in (self._holder, *self._processes.values()):
            process.wait(timeout=_SECONDS)
        deadline = time.monotonic() + _SECONDS
        while Path(f"/proc/{self._first}/ns/pid").exists():
            assert time.monotonic() < deadline, f"the process {self._first} does not end"
            time.sleep(0.01)

    def end(self) -> None:
        self.lose()
        shutil.rmtree(self.directory, ignore_errors=True)
        self._numbers.remove(self._number)

    def inside(self, command: Sequence[str | Path]) -> list[str]:
        enter = ["nsenter", "--target", str(self._first), "--net", "--pid", "--mount", "--"]
        return [*_DIES_WITH_THE_TESTS, *enter, *map(str, command)]


@contextmanager
def a_place() -> Iterator[Place]:
    place = Place()
    try:
        yield place
    finally:
        place.end()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def _only_child(pid: int) -> int:
    """`unshare` and `nsenter` wait for the one process that they start."""
    deadline = time.monotonic() + _SECONDS
    while not (children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
        assert time.monotonic() < deadline, f"the process {pid} has started nothing"
        time.sleep(0.01)
    return int(children[0])


def _remove_leftovers() -> None:
    """Of a process that was killed and had the number of this one."""
    for directory in Path("/var/tmp").glob(f"{_PREFIX}*"):
        shutil.rmtree(directory, ignore_errors=True)
