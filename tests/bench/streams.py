"""What the router costs after the login, over a direct login: bulk, files, key strokes, CPU, memory."""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway.router.ssh.keys import load_private_key
from tests.bench.ground import at_once
from tests.bench.measure import Row, progress
from tests.fakes.raw_ssh import RawClient
from tests.paths import REPOSITORY
from tests.routes.ground import SSHD_PORT, Client, Keys, Router, Sshd, make_router, run, sshd_container

MIB = 2**20
_BULK, _EACH_OF_TEN = 256 * MIB, 32 * MIB
_FILES = 1000
_STROKES = 300
_FLOOD_PER_SECOND, _FLOOD_SECONDS = 100, 12
_IDLE = 60  # connections
_USERS = [f"user{number}" for number in range(10)]
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Lane:
    """A way to the sshd: `ssh` and `sftp` of one user, with their options."""

    options: Sequence[str]
    port: int
    host: str
    user: str

    def ssh(self, *command: str) -> list[str]:
        return ["ssh", *self.options, "-T", "-p", str(self.port), "-l", self.user, self.host, *command]

    def sftp(self, batch: Path) -> list[str]:
        place = f"{self.user}@{self.host}"
        return ["sftp", *self.options, "-q", "-P", str(self.port), "-b", str(batch), place]


@dataclass(frozen=True)
class Ground:
    directory: Path
    router: Router
    sshd: Sshd
    keys: Keys

    def through(self, user: str) -> Lane:
        options = Client(self.router, self.sshd, self.directory, self.keys).options()
        return Lane(options, self.router.port, "127.0.0.1", user)

    def direct(self, user: str) -> Lane:
        known = self.directory / "direct.known"
        known.write_text(f"[{self.sshd.host}]:{SSHD_PORT} {' '.join(self.sshd.host_key.split()[:2])}\n")
        options = Client(self.router, self.sshd, self.directory, self.keys).options()
        changed = [f"UserKnownHostsFile={known}" if "KnownHosts" in each else each for each in options]
        return Lane(changed, SSHD_PORT, self.sshd.host, user)


def streams(runs: int) -> list[Row]:
    """All rows of a router's work after the login, both ways by turns."""
    runs = max(1, min(runs, 5))
    with _ground() as ground:
        return [
            *_bulk(ground, runs),
            _ten(ground, runs),
            _files(ground, runs),
            *_strokes(ground),
            _memory(ground),
        ]


@contextmanager
def _ground() -> Iterator[Ground]:
    with ExitStack() as stack:
        directory = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="gateway-bench-", dir="/dev/shm"))
        )
        keys = Keys.make(directory / "id_ed25519")
        (directory / "sshd").mkdir()
        sshd = stack.enter_context(sshd_container(directory / "sshd", _USERS, [keys.public]))
        sshd.inside(f"head -c {_BULK} /dev/urandom > /tmp/random")
        (directory / "router").mkdir()
        router = make_router("embedded", directory / "router")
        stack.callback(router.stop)
        router.start()
        router.pipes.replace(lambda: [sshd.pipe(user, [keys.public]) for user in _USERS])
        yield Ground(directory, router, sshd, keys)


def _bulk(ground: Ground, runs: int) -> Iterator[Row]:
    """One stream up and one down; and the CPU time that the router and the sshd take for it."""
    random = ground.directory / "random"
    random.write_bytes(os.urandom(_BULK))
    speeds: dict[str, list[float]] = {"up": [], "up direct": [], "down": [], "down direct": []}
    cpu: dict[str, list[float]] = {"router": [], "sshd": []}
    for number in range(runs):
        for name, lane in (("", ground.through("user0")), (" direct", ground.direct("user0"))):
            before = _cpu(ground.router.processes), _cpu_of_sshd(ground)
            for way in ("up", "down"):
                command = "cat > /dev/null" if way == "up" else "cat /tmp/random"
                speeds[way + name].append(
                    _BULK / MIB / _copied(lane.ssh(command), random if way == "up" else None)
                )
            if not name:
                gib = 2 * _BULK / 2**30
                cpu["router"].append((_cpu(ground.router.processes) - before[0]) / gib)
                cpu["sshd"].append((_cpu_of_sshd(ground) - before[1]) / gib)
        progress("bulk", number + 1, runs)
    size = f"{_BULK // MIB} MiB of random bytes"
    for way in ("up", "down"):
        yield Row(
            f"bulk-{way}", f"one stream {way}, {size}", "direct", speeds[way], speeds[f"{way} direct"],
            unit="MiB/s", goal=0.75, at_least=True,
        )  # fmt: skip
    yield Row(
        "router-cpu", "CPU seconds of the router a GiB", "the session's sshd, with its cat",
        cpu["router"], cpu["sshd"], goal=1.0,
    )  # fmt: skip


def _ten(ground: Ground, runs: int) -> Row:
    def speed(lanes: Sequence[Lane]) -> float:
        commands = [lane.ssh(f"head -c {_EACH_OF_TEN} /tmp/random") for lane in lanes]
        seconds, _ = at_once(lambda command: _copied(command, None), commands)
        return len(lanes) * _EACH_OF_TEN / MIB / seconds

    ours, theirs = [], []
    for number in range(runs):
        ours.append(speed([ground.through(user) for user in _USERS]))
        theirs.append(speed([ground.direct(user) for user in _USERS]))
        progress("ten streams", number + 1, runs)
    return Row(
        "ten-streams", "ten streams down at once, all together", "direct, ten at once", ours, theirs,
        unit="MiB/s", goal=0.65, at_least=True,
    )  # fmt: skip


def _files(ground: Ground, runs: int) -> Row:
    files = ground.directory / "files"
    files.mkdir()
    for number in range(_FILES):
        (files / f"{number}").write_bytes(os.urandom(1024))
    batch = ground.directory / "batch"
    times: dict[str, list[float]] = {"ours": [], "direct": []}
    for number in range(runs):
        for name, lane in (("ours", ground.through("user0")), ("direct", ground.direct("user0"))):
            batch.write_text(f"lcd {ground.directory}\ncd /tmp\nput -r files\n")
            times[name].append(_copied(lane.sftp(batch), None))
            ground.sshd.inside("rm -r /tmp/files")
        progress("small files", number + 1, runs)
    return Row(
        "small-files",
        f"{_FILES:,} files of 1 KiB by sftp",
        "direct",
        times["ours"],
        times["direct"],
        goal=1.5,
    )


def _strokes(ground: Ground) -> Iterator[Row]:
    """The time until a key stroke's echo is there, while others work."""
    ways = {
        "through": (ground.through("user0"), ground.through),
        "direct": (ground.direct("user0"), ground.direct),
    }
    beside: dict[str, list[float]] = {}
    for name, (lane, way) in ways.items():
        with ExitStack() as stack:
            for user in _USERS[1:3]:
                endless = "while cat /tmp/random; do :; done"
                stack.enter_context(_running(way(user).ssh(endless), stdout=subprocess.DEVNULL))
            beside[name] = _echoes(lane)
        progress("key strokes", len(beside), len(ways))
    yield Row(
        "echo-beside-streams", "key-stroke echo p95 beside two saturating streams", "direct, beside two",
        beside["through"], beside["direct"], goal=3.0, quantile=0.95,
        note="2 ms or less is as good as the goal",
    )  # fmt: skip
    calm = _echoes(ground.through("user0"))
    command = [
        sys.executable, "-m", "tests.bench.flood", str(ground.router.port), ground.router.public_key,
        str(_FLOOD_PER_SECOND), str(_FLOOD_SECONDS),
    ]  # fmt: skip
    with _running(command, stdout=subprocess.PIPE, cwd=REPOSITORY) as flood:
        time.sleep(2)
        flooded = _echoes(ground.through("user0"))
        finished = int(flood.communicate(timeout=60)[0])
    yield Row(
        "echo-under-flood", "key-stroke echo p95 under a stranger's handshakes", "without them",
        flooded, calm, goal=2.0, quantile=0.95,
        note=f"{finished / _FLOOD_SECONDS:.0f} handshakes a second, whose clients take CPU time here as well",
    )  # fmt: skip


def _memory(ground: Ground) -> Row:
    """The private memory of all the router's processes, for each connection that is logged in and idle."""

    async def log_in() -> float:
        key = load_private_key(ground.keys.private.read_bytes())
        clients = [RawClient(ground.router.public_key) for _ in range(_IDLE)]
        for client in clients[: _IDLE // 3]:  # what is made once is there
            await client.connect("127.0.0.1", ground.router.port)
            await client.log_in("user0", key)
        before = ground.router.memory_kib
        for client in clients[_IDLE // 3 :]:
            await client.connect("127.0.0.1", ground.router.port)
            await client.log_in("user0", key)
        each = (ground.router.memory_kib - before) / (_IDLE - _IDLE // 3)
        await asyncio.gather(*(client.leave() for client in clients))
        return each

    return Row(
        "idle-memory",
        "memory of a logged-in idle connection",
        "",
        [asyncio.run(log_in())],
        unit="KiB",
        goal=150,
    )


def _copied(command: Sequence[str], source: Path | None) -> float:
    """Run it, with `source` as its input; the seconds it took."""
    with open(source or os.devnull, "rb") as given:
        began = time.perf_counter()
        subprocess.run(command, stdin=given, stdout=subprocess.DEVNULL, check=True, timeout=300)
        return time.perf_counter() - began


@contextmanager
def _running(command: Sequence[str], **options: object) -> "Iterator[subprocess.Popen[bytes]]":
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, **options) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.kill()


def _echoes(lane: Lane) -> list[float]:
    """Seconds from each byte to its echo."""
    times = []
    with subprocess.Popen(lane.ssh("cat"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as ssh:
        assert ssh.stdin
        assert ssh.stdout
        for number in range(_STROKES + 10):
            began = time.perf_counter()
            ssh.stdin.write(b"k")
            assert ssh.stdout.read(1) == b"k"
            times.append(time.perf_counter() - began)
            time.sleep(0.01)
            if number == 9:
                times.clear()  # the login is part of the first
        ssh.stdin.close()
    return times


def _cpu(processes: Sequence[int]) -> float:
    return sum(sum(_times(pid)[:2]) for pid in processes)


def _cpu_of_sshd(ground: Ground) -> float:
    """Of the listening sshd and all its children that have ended."""
    pids = run("docker", "top", ground.sshd.container, "-o", "pid,args").splitlines()[1:]
    [listener] = [int(line.split()[0]) for line in pids if "[listener]" in line]
    return sum(_times(listener))


def _times(pid: int) -> list[float]:
    """User and system seconds of the process, then those of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return [int(field) / _TICKS for field in fields[11:15]]
