"""More than a session's share of the machine. Each attempt cleans up after itself."""

import contextlib
import os
import signal
import time

_MIB = 1024 * 1024


def fork_bomb(most: int) -> str:
    """As many processes as can be had."""
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
    """More memory than the session's limit, in a child that the kernel is to kill first."""
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
    taken = 0
    while piece := os.read(reading, 4096):
        taken += len(piece)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code == 0:
        return f"{taken} MiB"
    raise OSError(f"killed at {taken} MiB" if code == -signal.SIGKILL else f"refused at {taken} MiB")


def fill(directories: list[str], most_mib: int) -> str:
    """A file of that size in any directory that is not the workspace."""
    block, failures = bytes(_MIB), []
    for directory in directories:
        path = os.path.join(directory, "probe-filler")
        try:
            with open(path, "wb", buffering=0) as file:
                written = 0
                while written < most_mib * _MIB:
                    written += file.write(block)
            return f"{most_mib} MiB in {directory}"
        except OSError as error:
            failures.append(f"{directory}: {error.strerror}")
        finally:
            with contextlib.suppress(OSError):
                os.unlink(path)
    raise OSError("; ".join(failures))


def many_files(directories: list[str], most: int) -> str:
    """As many files as can be made."""
    failures = []
    for directory in directories:
        place, made = os.path.join(directory, "probe-files"), 0
        try:
            os.mkdir(place)
            for made in range(most):
                os.close(os.open(f"{place}/{made}", os.O_WRONLY | os.O_CREAT))
            return f"{most} files in {directory}"
        except OSError as error:
            failures.append(f"{directory}: {error.strerror} after {made}")
        finally:
            with contextlib.suppress(OSError):
                for name in os.listdir(place):
                    os.unlink(f"{place}/{name}")
                os.rmdir(place)
    raise OSError("; ".join(failures))


def open_files(most: int) -> str:
    """As many files held open by one process as can be had."""
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
    raise NotImplementedError(f"{mib} MiB were written; the log's size is looked at from outside")


def linger(seconds: int) -> str:
    """A process that has left its session and every terminal, to live on after the lease."""
    if os.fork() == 0:
        os.setsid()
        nowhere = os.open("/dev/null", os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nowhere, descriptor)
        if os.fork() == 0:
            for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            time.sleep(seconds)
        os._exit(0)
    raise NotImplementedError("it was started; whether it lives on is looked at from outside")
