"""How a session's container differs from its plan, and why a container ended. Pure."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from gateway.domain.states import Reason

_SIGKILL_EXIT = 128 + 9


@dataclass(frozen=True, slots=True)
class Setup:
    """The settings of a container, as planned or as Docker reports them.

    `networks` maps the name of each network to the container's address in it. `mounts` are (directory of the
    host, path in the container, whether it is writable). `limits` have Docker's names and units.
    """

    networks: Mapping[str, str]
    mounts: frozenset[tuple[str, str, bool]] = frozenset()
    limits: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Deviation:
    """One difference from the plan. `is_repairable`: the gateway can repair it while the session runs."""

    what: str
    is_repairable: bool = False

    def __str__(self) -> str:
        """The difference as a sentence."""
        return f"{self.what[0].upper()}{self.what[1:]}."


GPU_LOST = Deviation(
    "its programs cannot open the GPU any more: save the work, end the session and open a new one; "
    "docs/gpus.md names the cause"
)


@dataclass(frozen=True, slots=True)
class End:
    """What Docker reports of a container that has ended.

    `actions` are the Docker commands on the container shortly before its end: `kill`, `stop`, `restart`.
    `was_restarted`: the container runs again, but its programs and its network namespace are new.
    """

    exit_code: int
    oom_killed: bool = False
    actions: Collection[str] = ()
    was_restarted: bool = False

    @property
    def reason(self) -> Reason:
        """Why the session ended.

        No process of the container can send SIGKILL to its first process, so exit code 137 has a cause
        outside of the container. Docker also sets `oom_killed` if the kernel killed another process of the
        container, so `oom_killed` alone does not decide.
        """
        if self.was_restarted or "restart" in self.actions:
            return Reason.RESTARTED
        if "stop" in self.actions:
            return Reason.STOPPED
        if "kill" in self.actions:
            return Reason.KILLED
        if self.exit_code == _SIGKILL_EXIT:
            return Reason.OUT_OF_MEMORY if self.oom_killed else Reason.KILLED
        return Reason.USER_EXIT


def deviations(planned: Setup, found: Setup, *, is_paused: bool, is_closed: bool) -> Iterator[Deviation]:
    """Yield the differences. `is_closed`: the gateway's rules are in the container's network namespace."""
    for network in sorted(found.networks.keys() - planned.networks.keys()):
        yield Deviation(f"it is connected to the network {network}", is_repairable=True)
    for network, address in planned.networks.items():
        if network not in found.networks:
            yield Deviation(f"it is not connected to the network {network}", is_repairable=True)
        elif found.networks[network] != address:
            yield Deviation(f"its address is {found.networks[network]}, not {address}", is_repairable=True)
    if not is_closed:
        yield Deviation("the rules in its network namespace are missing", is_repairable=True)
    if is_paused:
        yield Deviation("its container is paused: run `docker unpause`")
    for source, place, _ in sorted(found.mounts - planned.mounts):
        yield Deviation(f"{source} is mounted at {place}, which was not planned")
    for _, place, _ in sorted(planned.mounts - found.mounts):
        yield Deviation(f"the mount at {place} is not as planned")
    for name, limit in planned.limits.items():
        if found.limits.get(name) != limit:
            yield Deviation(f"its limit {name} is {found.limits.get(name)}, not {limit}")
