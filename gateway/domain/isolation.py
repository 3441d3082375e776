"""What isolating sessions requires of Docker, as `docker info` and a process in a session show it. Pure."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

SECCOMP, APPARMOR, MEMORY, PIDS, CPU = "seccomp", "apparmor", "memory", "pids", "cpu"
CAPABILITIES, NO_NEW_PRIVILEGES = "capabilities", "no-new-privileges"
WEAKNESSES = (
    SECCOMP,
    APPARMOR,
    MEMORY,
    PIDS,
    CPU,
    CAPABILITIES,
    NO_NEW_PRIVILEGES,
)  # those that an administrator may allow
OLDEST_ENGINE = 24
# A distribution may have repaired an older version without a new number, so these are notes.
_REPAIRED = {
    "Engine": ("25.0.4", "CVE-2024-29018"),
    "runc": ("1.2.8", "CVE-2024-21626, CVE-2025-31133, CVE-2025-52565, CVE-2025-52881"),
    "NVIDIA container toolkit": ("1.17.8", "CVE-2024-0132, CVE-2025-23359, CVE-2025-23266"),
}
_SECCOMP_FILTER = "2"  # proc(5)
_CAPABILITY_SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
_LIMITS = {MEMORY: "MemoryLimit", PIDS: "PidsLimit", CPU: "CPUCfsQuota"}


@dataclass(frozen=True, slots=True)
class Weakness:
    """`name` is what --allow-weaker takes; None: sessions cannot run at all. `problem` is a sentence."""

    name: str | None
    problem: str


def weaknesses(info: Mapping[str, Any], *, kernel_has_apparmor: bool) -> Iterator[Weakness]:
    """`kernel_has_apparmor`: the host's kernel contains AppArmor, switched on or off."""
    options = [_fields(option) for option in info.get("SecurityOptions") or []]
    by_name = {option.get("name"): option for option in options}
    if "userns" in by_name or "rootless" in by_name:
        yield Weakness(
            None,
            "Docker maps user ids (userns-remap or rootless): workspaces would not belong to their users.",
        )
    seccomp = by_name.get("seccomp")
    if seccomp is None or seccomp.get("profile") == "unconfined":
        yield Weakness(SECCOMP, "Docker runs containers without a seccomp profile.")
    if kernel_has_apparmor and "apparmor" not in by_name:
        yield Weakness(APPARMOR, "The kernel has AppArmor, but Docker does not use it.")
    for name, key in _LIMITS.items():
        if info.get(key) is False:
            yield Weakness(name, f"The kernel has no cgroup controller for Docker's {name} limit.")


def is_status(text: str) -> bool:
    """Whether the text is that of a process in /proc/PID/status."""
    return "Uid" in _status(text)


def weaknesses_of_process(status: str) -> Iterator[Weakness]:
    """`status` is /proc/self/status of a process in a session."""
    found = _status(status)
    if found.get("Seccomp") != _SECCOMP_FILTER:
        yield Weakness(SECCOMP, "Processes in sessions run without a seccomp filter.")
    if found.get("NoNewPrivs") != "1":
        yield Weakness(NO_NEW_PRIVILEGES, "Processes in sessions can gain privileges (NoNewPrivs is not 1).")
    held = [name for name in _CAPABILITY_SETS if found.get(name, "0").strip("0")]
    if held:
        yield Weakness(CAPABILITIES, f"Processes in sessions have capabilities ({', '.join(held)}).")


def forbidden(found: Collection[Weakness], allowed: Collection[str]) -> str | None:
    """What is wrong and what to do, if a weakness is not allowed."""
    wrong = [weakness for weakness in found if weakness.name is None or weakness.name not in allowed]
    if not wrong:
        return None
    names = ",".join(weakness.name for weakness in wrong if weakness.name)
    remedy = "change Docker's configuration" + (f", or allow it with --allow-weaker {names}" if names else "")
    return f"{' '.join(weakness.problem for weakness in wrong)} To open sessions, {remedy}."


def notes(version: Mapping[str, Any]) -> Iterator[str]:
    """Versions, and which of them may have known holes; `version` is as `docker version` reports it."""
    parts = {part["Name"]: str(part["Version"]) for part in version.get("Components") or []}
    yield _noted("Engine", str(version.get("Version")))
    if runc := parts.get("runc"):
        yield _noted("runc", runc)


def toolkit_note(version: str | None) -> str:
    """The same for the NVIDIA container toolkit; None: its version is unknown to the gateway."""
    name = "NVIDIA container toolkit"
    if version is not None:
        return _noted(name, version)
    return f"{name} of unknown version (`nvidia-ctk --version` on the host: {_REPAIRED[name][0]} or later)"


def _noted(name: str, version: str) -> str:
    repaired, cves = _REPAIRED[name]
    is_old = _number(version) < _number(repaired)
    old = f" (below {repaired}: see that your distribution has repaired {cves})"
    return f"{name} {version}{old if is_old else ''}"


def is_too_old(version: Mapping[str, Any]) -> bool:
    return _number(str(version.get("Version")))[0] < OLDEST_ENGINE


def _status(text: str) -> Mapping[str, str]:
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def _fields(option: str) -> Mapping[str, str]:
    """Docker writes `name=seccomp,profile=builtin`."""
    return dict(part.split("=", 1) for part in option.split(",") if "=" in part)


def _number(version: str) -> tuple[int, ...]:
    """The first three numbers of a version; distributions add letters after them."""
    parts = version.split("+")[0].split("~")[0].split("-")[0].split(".")[:3]
    return tuple(int(part) if part.isdecimal() else 0 for part in parts)
