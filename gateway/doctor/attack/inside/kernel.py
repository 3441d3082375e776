"""Attempts at the kernel: privileges, namespaces, system calls, other processes."""

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
    """Return the first of these C library calls that is not denied. Raises `PermissionError` without one.

    An error of another kind counts as allowed: the kernel had already checked the permission.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    for what, (function, *arguments) in attempts.items():
        if getattr(libc, function)(*arguments) >= 0:
            return what
        if ctypes.get_errno() not in _DENIED:
            return f"{what}: {os.strerror(ctypes.get_errno())}"
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


def mount() -> str:
    """Mount file systems, remount the root writable, and uncover masked paths."""
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
    """Create namespaces: the root of a user namespace can reach many more parts of the kernel."""
    kinds = {"user": 0x10000000, "mount": 0x20000, "network": 0x40000000, "pid": 0x20000000}
    pid = os.fork()  # in a child, because success changes what later attempts see
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
    return "a namespace can be created"


def become_root() -> str:
    """Change to root's or another user's uid, gid or groups."""
    failures = []
    for name, argument in (("setuid", 0), ("setgid", 0), ("setuid", 1), ("setgroups", [0])):
        try:
            getattr(os, name)(argument)
        except OSError as error:
            failures.append(error)
        else:
            return f"{name}({argument})"
    raise failures[0]


def privileged_programs() -> str:
    """Find files with setuid, setgid or capabilities, which give privileges to their caller."""
    for directory, _, files in os.walk("/"):
        if directory.startswith(("/proc", "/sys", "/home")):
            continue
        for name in files:
            path = os.path.join(directory, name)
            try:
                found = os.lstat(path)
                has_capability = "security.capability" in os.listxattr(path, follow_symlinks=False)
            except OSError:
                continue
            if stat.S_ISREG(found.st_mode) and (has_capability or found.st_mode & 0o6000):
                return path
    raise PermissionError("the image has no such file, and no_new_privs would ignore it")


def hold_capabilities() -> str:
    """Find a capability, or a way to gain one by running a program."""
    with open("/proc/self/status") as file:
        status = dict(line.split(":\t", 1) for line in file.read().splitlines() if ":\t" in line)
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        if int(status[name], 16):
            return f"{name} is {status[name]}"
    if status["NoNewPrivs"] != "1" or status["Seccomp"] != "2":
        return f"NoNewPrivs {status['NoNewPrivs']}, Seccomp {status['Seccomp']}"
    raise PermissionError("no capability, no_new_privs, seccomp filter")


def system_calls() -> str:
    """Use system calls for administrators: modules, clocks, file handles, BPF, reboot."""
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
    """See another user's process. A process that cannot be seen cannot be read, traced or killed."""
    for directory in glob.glob("/proc/[0-9]*"):
        try:
            if os.stat(directory).st_uid != os.getuid():
                return f"{directory} belongs to another user"
        except FileNotFoundError:
            continue
    raise PermissionError("every visible process belongs to the user")


def kernel_parameters() -> str:
    """Let the kernel run a program outside: by core_pattern, release_agent, modprobe or uevents."""
    failures: list[OSError] = [FileNotFoundError(errno.ENOENT, "none of these files exists")]
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
    """Crash: if core_pattern names a program, the kernel starts it outside as root."""
    _, limit = resource.getrlimit(resource.RLIMIT_CORE)
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))
        os.kill(os.getpid(), signal.SIGSEGV)
    if os.WCOREDUMP(os.waitpid(pid, 0)[1]):
        return "a crash writes a core dump"
    with open("/proc/sys/kernel/core_pattern") as file:
        pattern = file.read().strip()
    if limit != 1 and pattern.startswith("|"):
        return f"a crash starts {pattern.split()[0][1:]} outside"
    raise PermissionError(f"no core dump: the limit is {limit} byte")
