"""Attempts to use more than a session's share of the machine.

The kernel can kill any of them at the session's memory limit: then `clean` removes what is left.
"""

import contextlib
import itertools
import os
import signal
import socket
import time
from collections.abc import Sequence

LIMIT_STOPS = True
_MIB = 1024 * 1024
_LEAST_ACCEPTED = 65536  # bytes that an empty connection accepts
_FILLER, _FILES = "probe-filler", "probe-files"


def clean(directories: Sequence[str] = (), **_parameters: object) -> None:
    """Remove the files of an attempt with these parameters."""
    for directory in directories:
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(directory, _FILLER))
        target = os.path.join(directory, _FILES)
        with contextlib.suppress(OSError):
            while names := list(itertools.islice(os.scandir(target), 1000)):
                for name in names:
                    os.unlink(name)
            os.rmdir(target)


def fork_bomb(most: int) -> str:
    """Create as many processes as possible."""
    children: list[int] = []
    try:
        while len(children) < most:
            if (pid := os.fork()) == 0:
                signal.pause()
            children.append(pid)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} after {len(children)} processes") from error
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        for pid in children:
            os.waitpid(pid, 0)
    return f"{len(children)} processes"


def memory_hog(most_mib: int) -> str:
    """Use more memory than the session's limit, in a child that the kernel kills first."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
        held: list[bytes] = []
        try:
            while len(held) < most_mib:
                held.append(b"x" * _MIB)
                os.write(writing, b".")
        except MemoryError:
            os._exit(1)
        os._exit(0)
    os.close(writing)
    allocated = 0
    while piece := os.read(reading, 4096):
        allocated += len(piece)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code == 0:
        return f"{allocated} MiB"
    raise OSError(f"{'killed' if code == -signal.SIGKILL else 'refused'} at {allocated} MiB")


def fill_tcp_buffers(most_mib: int) -> str:
    """Hold unread data in TCP connections to itself, above what the session may have for it."""
    if not most_mib:
        raise NotImplementedError("cgroup v2 counts TCP buffers as memory of the session")
    unread = 0
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        while unread < most_mib * _MIB:
            sender = stack.enter_context(socket.create_connection(server.getsockname()))
            stack.enter_context(server.accept()[0])
            if (accepted := _send_all(sender)) < _LEAST_ACCEPTED:
                raise OSError(f"the kernel accepts no more after {unread // _MIB} MiB")
            unread += accepted
    return f"{unread // _MIB} MiB"


def _send_all(connection: socket.socket) -> int:
    """Send until the buffers are full, and return the number of bytes."""
    block, accepted, refusals = bytes(_LEAST_ACCEPTED), 0, 0
    connection.setblocking(False)
    while refusals < 4:  # the kernel moves data from one buffer to the other meanwhile
        try:
            accepted += connection.send(block)
        except BlockingIOError:
            refusals += 1
            time.sleep(0.005)
    return accepted


def fill(directories: list[str], most_mib: int) -> str:
    """Write a file of that size to every directory that is not the workspace."""
    block, failures = bytes(_MIB), []
    for directory in directories:
        path = os.path.join(directory, _FILLER)
        try:
            with open(path, "wb", buffering=0) as file:
                written = 0
                while written < most_mib * _MIB:
                    written += file.write(block)
            return f"{most_mib} MiB in {directory}"
        except OSError as error:
            failures.append(f"{directory}: {error.strerror}")
        finally:
            clean([directory])
    raise OSError("; ".join(failures))


def many_files(directories: list[str], most: int) -> str:
    """Create as many files as possible."""
    failures = []
    for directory in directories:
        target, created = os.path.join(directory, _FILES), 0
        try:
            os.mkdir(target)
            for created in range(most):
                os.close(os.open(f"{target}/{created}", os.O_WRONLY | os.O_CREAT))
            return f"{most} files in {directory}"
        except OSError as error:
            failures.append(f"{directory}: {error.strerror} after {created}")
        finally:
            clean([directory])
    raise OSError("; ".join(failures))


def open_files(most: int) -> str:
    """Hold as many files open in one process as possible."""
    held: list[int] = []
    try:
        while len(held) < most:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} after {len(held)}") from error
    finally:
        for descriptor in held:
            os.close(descriptor)
    return f"{most} open files"


def flood_log(mib: int) -> str:
    """Write to the container's log as its main process and its sshd do; the log is measured from outside."""
    line = b"x" * 1023 + b"\n"
    with open("/proc/1/task/1/children") as file:
        listener = file.read().split()[0]
    for process in ("1", listener):
        path = f"/proc/{process}/fd/2"
        if os.path.realpath(path) != os.devnull:
            with open(path, "wb", buffering=0) as log:
                for _ in range(mib * 1024):
                    log.write(line)
    raise NotImplementedError(f"{mib} MiB were written; the log is measured from outside")


def linger(seconds: int) -> str:
    """Start a process without a session and a terminal, which could outlive the lease."""
    if os.fork() == 0:
        os.setsid()
        null = os.open("/dev/null", os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        if os.fork() == 0:
            for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            time.sleep(seconds)
        os._exit(0)
    raise NotImplementedError("the process was started; it is counted from outside")
