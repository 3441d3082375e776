"""Logins through the router against logins without it, and what publishing a route costs."""

import io
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ruamel.yaml import YAML

from gateway.domain.pipe import Pipe
from gateway.domain.plan import SSH_PORT
from gateway.domain.ssh_keys import KeyPair, make_pair
from gateway.repositories.files.pipes import Pipes
from gateway.router.routes import Routes
from tests.bench.ground import USER, gateway, seconds
from tests.bench.measure import Row, progress
from tests.paths import BIN
from tests.whole_gateway import eventually, free_port

_MANY, _MOST = 1_000, 10_000
_ROUND_TRIPS = 1  # of the largest file, in ruamel
_CONNECTION = (
    "-F", "none", "-T",
    "-o", "BatchMode=yes",
    "-o", "IdentitiesOnly=yes",
    "-o", "StrictHostKeyChecking=yes",
    "-o", "KexAlgorithms=curve25519-sha256",
    "-o", "HostKeyAlgorithms=ssh-ed25519",
    "-o", "Ciphers=aes128-gcm@openssh.com",
)  # fmt: skip


def login(runs: int) -> list[Row]:
    """`ssh true` straight to a session's sshd, through a router with one pipe, and through one with many."""
    times: dict[str, list[float]] = {"direct": [], "one": [], "many": []}
    user = make_pair()
    with gateway() as ours, ExitStack() as stack:
        row = ours.row(ours.open(USER, user.public))
        pipe = Pipe(
            session_id=row["id"],
            username=USER,
            public_keys=(user.public,),
            host=row["address"],
            port=SSH_PORT,
            private_key=row["private_key"],
            host_key=row["host_key"],
        )
        key = _key_file(ours.directory / "user.key", user.private)
        commands = {
            "direct": _ssh(
                ours.directory / "direct.known",
                (row["address"], SSH_PORT, row["host_key"]),
                _key_file(ours.directory / "router.key", row["private_key"]),
            )
        }
        for name, count in (("one", 1), ("many", _MANY)):
            entry = stack.enter_context(_router(ours.directory / name, [*pipes_of_others(count - 1), pipe]))
            commands[name] = _ssh(ours.directory / f"{name}.known", entry, key)
        for command in commands.values():  # what is read or compiled at the first login only
            _true(command)
        for run in range(runs):
            names = list(commands)
            for name in names[run % 3 :] + names[: run % 3]:  # each goes first in its turn
                times[name].append(seconds(lambda: _true(commands[name])))  # noqa: B023 (called at once)
            progress("ssh true", run + 1, runs)
    return [
        Row(
            "login",
            "`ssh true` through the router",
            "straight to the container",
            times["one"],
            times["direct"],
            goal=1.3,
            note="curve25519-sha256, ssh-ed25519 and aes128-gcm for both",
        ),
        Row(
            "login-many",
            f"the same with {_MANY:,} pipes",
            "with one",
            times["many"],
            times["one"],
            goal=1.1,
        ),
    ]


def publish(runs: int) -> list[Row]:
    """One route more in a file of ten thousand, its fsync included."""
    published: list[float] = []
    withdrawn: list[float] = []
    directory = Path(tempfile.mkdtemp(prefix="gateway-bench-"))
    try:
        path = directory / "pipe.yaml"
        pipes, others = Pipes(path), list(pipes_of_others(_MOST + 1))
        pipes.replace(lambda: others[:-1])
        first = seconds(lambda: Pipes(path).add(others[0]))
        for run in range(runs):
            published.append(seconds(lambda: pipes.add(others[-1])))
            withdrawn.append(seconds(lambda: pipes.remove(others[-1].session_id)))
            progress(f"publishing at {_MOST:,} pipes", run + 1, runs)
        assert "session-1000" in path.read_text()
        round_trips = []
        for run in range(_ROUND_TRIPS):
            round_trips.append(seconds(lambda: _round_trip(path)))
            progress("round trip in ruamel", run + 1, _ROUND_TRIPS)
    finally:
        shutil.rmtree(directory)
    over = "a ruamel round trip of that file"
    return [
        Row(
            "publish",
            f"publishing one route at {_MOST:,} pipes",
            over,
            published,
            round_trips,
            goal=1 / 500,
            note=f"the round trip was made {_ROUND_TRIPS} time(s), for it takes this long; a process that "
            f"has not read the file yet reads and checks it at its first route, in {1000 * first:.0f} ms",
        ),
        Row("withdraw", "withdrawing it", over, withdrawn, round_trips),
    ]


def reload(runs: int) -> list[Row]:
    """What the router reads again after one route more in a file of ten thousand."""
    again: list[float] = []
    full: list[float] = []
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as directory:
        path = Path(directory) / "pipe.yaml"
        pipes, others = Pipes(path), list(pipes_of_others(_MOST + runs))
        pipes.replace(lambda: others[:_MOST])
        kept = Routes(path)
        kept.refresh()
        for run, pipe in enumerate(others[_MOST:]):
            pipes.add(pipe)
            again.append(seconds(kept.refresh))
            full.append(seconds(Routes(path).refresh))
            assert kept.find(pipe.username)
            progress(f"reading {_MOST:,} pipes", run + 1, runs)
    what = f"the router's next look at {_MOST:,} pipes after one more"
    return [Row("reload", what, "reading them all", again, full, goal=0.5)]


def pipes_of_others(count: int) -> Iterator[Pipe]:
    """Pipes of other people; they may share their keys, which nobody here checks against another's."""
    pairs = [make_pair() for _ in range(min(count, 100))]
    for number in range(count):
        pair: KeyPair = pairs[number % len(pairs)]
        yield Pipe(
            session_id=f"session-{number}",
            username=f"other{number}",
            public_keys=(pair.public,),
            host=f"10.216.{9 + number // 250}.{number % 250 + 1}",
            port=SSH_PORT,
            private_key=pair.private,
            host_key=pair.public,
        )


@contextmanager
def _router(directory: Path, pipes: list[Pipe]) -> Iterator[tuple[str, int, str]]:
    """An embedded router over these pipes: where it listens, and its host key."""
    directory.mkdir()
    config, port = directory / "pipe.yaml", free_port()
    Pipes(config).replace(lambda: pipes)
    command = [str(BIN / "gateway"), "router", "--piper-config", str(config), "--listen", f"127.0.0.1:{port}"]
    with open(directory / "log", "wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            eventually(lambda: b"listening" in (directory / "log").read_bytes())
            yield "127.0.0.1", port, (directory / "ssh_host_ed25519_key.pub").read_text()
        finally:
            process.send_signal(signal.SIGKILL)


def _key_file(path: Path, private: str) -> Path:
    path.touch(mode=0o600)
    path.write_text(private)
    return path


def _ssh(known_hosts: Path, entry: tuple[str, int, str], key: Path) -> list[str]:
    host, port, host_key = entry
    known_hosts.write_text(f"[{host}]:{port} {' '.join(host_key.split()[:2])}\n")
    return [
        "ssh", *_CONNECTION, "-i", str(key), "-o", f"UserKnownHostsFile={known_hosts}",
        "-p", str(port), f"{USER}@{host}", "true",
    ]  # fmt: skip


def _true(command: list[str]) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


def _round_trip(path: Path) -> None:
    yaml = YAML()
    text = io.StringIO()
    yaml.dump(yaml.load(path.read_text()), text)
    assert len(text.getvalue()) > path.stat().st_size // 2
