"""Runs one attempt and prints its outcome as one line of JSON.

Every script that runs inside ends with this. The attempt runs in a child process, so that the kernel, at the
session's memory limit, kills the child and not the report. What the attempt leaves behind is removed, also
after such an end.
"""

import contextlib
import json
import os
import signal
import sys
import time
from typing import Any

_SECONDS = 20.0  # less than the time that the caller gives
_LONGEST = 16384  # bytes, less than a pipe holds
_KILLED = "killed by the kernel at the session's memory limit"
_OOM_COUNTERS = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")  # cgroup v2, v1


def report(attempts: dict[str, Any]) -> None:
    """Run the attempt that `sys.argv` names; the second argument has its parameters as a JSON object.

    `attempts` are the names of the script: the functions, `clean(parameters)` if attempts leave something
    behind, and `LIMIT_STOPS` if an end by the memory limit counts as stopped.
    """
    name, arguments = sys.argv[1], json.loads(sys.argv[2])
    kills = _kills()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _run(attempts[name], arguments, writing)
    ended = _wait(child)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if "clean" in attempts:
        attempts["clean"](**arguments)
    os.set_blocking(reading, False)
    with contextlib.suppress(BlockingIOError):
        print(os.read(reading, _LONGEST).decode())
        return
    if ended and attempts.get("LIMIT_STOPS") and _kills() > kills:
        print(json.dumps({"verdict": "stopped", "why": _KILLED}))
    else:
        sys.exit(1 if ended else "the attempt did not end in time")


def _run(attempt: Any, arguments: dict[str, Any], result: int) -> None:
    """Run the attempt in this process, write its outcome to the descriptor `result` and exit."""
    os.setpgid(0, 0)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    try:
        verdict, why = "through", attempt(**arguments)
    except OSError as error:
        verdict, why = "stopped", f"{error.strerror or error}"
    except NotImplementedError as reason:
        verdict, why = "untried", str(reason)
    os.write(result, json.dumps({"verdict": verdict, "why": why[:1000]}).encode())
    os._exit(0)


def _wait(child: int) -> bool:
    """Whether the child has ended in time. The pipe does not show that: other processes may hold it open."""
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        if os.waitpid(child, os.WNOHANG)[0]:
            return True
        time.sleep(0.01)
    return False


def _kills() -> int:
    """How many processes of the session the kernel has killed at the memory limit."""
    for path in _OOM_COUNTERS:
        with contextlib.suppress(OSError), open(path) as file:
            counters = dict(line.split() for line in file)
            return int(counters.get("oom_kill", 0))
    return 0
