"""Out of the session by the kernel: privileges, namespaces, devices, other processes."""

import ctypes
import errno
import glob
import os
import resource
import signal
import stat
from typing import Any

_DENIED = {errno.EPERM, errno.EACCES, errno.EROFS, errno.ENOSYS}


def _any_allowed(attempts: dict[str, tuple[Any, ...]]) -> str:
    """The first of these calls of the C library that is not denied; an error of another kind means that
    the kernel went past the question whether the caller may."""
    libc = ctypes.CDLL(None, use_errno=True)
    for what, (function, *arguments) in attempts.items():
        if getattr(libc, function)(*arguments) >= 0:
            return what
        if ctypes.get_errno() not in _DENIED:
            return f"{what}: {os.strerror(ctypes.get_errno())}"
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


def mount() -> str:
    """A file system of one's own, the cgroups', or the root made writable."""
    remount_writable_bind = 0x20 | 0x1000
    return _any_allowed(
        {
            "tmpfs is mounted": ("mount", b"none", b"/tmp", b"tmpfs", 0, None),
            "proc is mounted": ("mount", b"none", b"/tmp", b"proc", 0, None),
            "cgroups are mounted": ("mount", b"none", b"/tmp", b"cgroup", 0, b"memory"),
            "/ is writable": ("mount", None, b"/", None, remount_writable_bind, None),
            "/etc/gateway is writable": ("mount", None, b"/etc/gateway", None, remount_writable_bind, None),
            "/proc is uncovered": ("umount2", b"/proc/kcore", 2),
        }
    )


def unshare() -> str:
    """Namespaces of one's own: as root of a user namespace many a kernel fault is in reach."""
    kinds = {"user": 0x10000000, "mount": 0x20000, "network": 0x40000000, "pid": 0x20000000}
    pid = os.fork()  # not this process: an attempt that succeeds changes what the next one sees
    if pid == 0:
        code = 0
        try:
            _any_allowed({kind: ("unshare", flag) for kind, flag in kinds.items()})
        except OSError as error:
            code = error.errno or errno.EPERM
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise OSError(code, os.strerror(code))
    return "a namespace of one's own"


def become_root() -> str:
    """setuid, setgid and the groups of others; programs and files that would lend privileges."""
    failures = []
    for name, argument in (("setuid", 0), ("setgid", 0), ("setuid", 1), ("setgroups", [0])):
        try:
            getattr(os, name)(argument)
        except OSError as error:
            failures.append(error)
        else:
            return f"{name}({argument})"
    raise failures[0]


def lending_programs() -> str:
    """Files with setuid, setgid or capabilities, which would lend privileges to whoever runs them."""
    for directory, _, files in os.walk("/"):
        if directory.startswith(("/proc", "/sys", "/home")):
            continue
        for name in files:
            path = os.path.join(directory, name)
            try:
                found = os.lstat(path)
                lends = "security.capability" in os.listxattr(path, follow_symlinks=False)
            except OSError:
                continue
            if stat.S_ISREG(found.st_mode) and (lends or found.st_mode & 0o6000):
                return path
    raise PermissionError("no such file in the image, and no_new_privs would ignore it")


def hold_capabilities() -> str:
    """Any capability, or the chance to gain one by running a program."""
    with open("/proc/self/status") as file:
        status = dict(line.split(":\t", 1) for line in file.read().splitlines() if ":\t" in line)
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        if int(status[name], 16):
            return f"{name} is {status[name]}"
    if status["NoNewPrivs"] != "1" or status["Seccomp"] != "2":
        return f"NoNewPrivs {status['NoNewPrivs']}, Seccomp {status['Seccomp']}"
    raise PermissionError("no capability, no_new_privs, seccomp filter")


def system_calls() -> str:
    """System calls that belong to an administrator: modules, clocks, handles of files, BPF, reboot."""
    number = ctypes.c_int(0)
    return _any_allowed(
        {
            "chroot": ("chroot", b"/tmp"),
            "sethostname": ("sethostname", b"x", 1),
            "settimeofday": ("settimeofday", ctypes.byref((ctypes.c_long * 2)(0, 0)), None),
            "delete_module": ("delete_module", b"x", 0),
            "open_by_handle_at": ("open_by_handle_at", -100, ctypes.byref(number), 0),
            "swapoff": ("swapoff", b"/swap"),
            "reboot, as a query": ("reboot", 0),
            "setns": ("setns", os.open("/proc/self/ns/net", os.O_RDONLY), 0),
            "mknod": ("mknod", b"/tmp/probe-memory", stat.S_IFCHR | 0o600, os.makedev(1, 1)),
            "perf_event_open": ("syscall", 298 if os.uname().machine == "x86_64" else 241, 0, 0, -1, -1, 0),
            "bpf": ("syscall", 321 if os.uname().machine == "x86_64" else 280, 0, 0, 0),
        }
    )


def other_processes() -> str:
    """See a process that is not one's own: what is not seen can be neither read, traced nor killed."""
    for directory in glob.glob("/proc/[0-9]*"):
        try:
            if os.stat(directory).st_uid != os.getuid():
                return f"{directory} is another user's"
        except FileNotFoundError:
            continue
    raise PermissionError("every process in snapshot is one's own")


def kernel_parameters() -> str:
    """Tricks that have the kernel run a program outside: core_pattern, release_agent, modprobe, uevents."""
    failures: list[OSError] = [FileNotFoundError(errno.ENOENT, "none of them is there")]
    paths = ["/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/vm/panic_on_oom"]
    paths += ["/sys/kernel/uevent_helper", "/proc/sys/fs/binfmt_misc/register"]
    paths += glob.glob("/sys/fs/cgroup/**/release_agent", recursive=True)
    paths += glob.glob("/sys/fs/cgroup/**/cgroup.procs", recursive=True)
    paths += glob.glob("/sys/fs/cgroup/**/memory.max", recursive=True)
    for path in paths:
        try:
            os.close(os.open(path, os.O_WRONLY))
        except OSError as error:
            failures.append(error)
        else:
            return f"{path} can be written"
    raise failures[-1]


def core_dump() -> str:
    """A crash: where core_pattern names a program, the kernel starts it outside, as root."""
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_CORE, (most, most))
        os.kill(os.getpid(), signal.SIGSEGV)
    if os.WCOREDUMP(os.waitpid(pid, 0)[1]):
        return "a crash is dumped"
    with open("/proc/sys/kernel/core_pattern") as file:
        pattern = file.read().strip()
    if most != 1 and pattern.startswith("|"):
        return f"a crash starts {pattern.split()[0][1:]} outside"
    raise PermissionError(f"no dump: the limit is {most} byte")
