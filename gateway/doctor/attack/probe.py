"""One attempt from inside a session: its command, and the meaning of its output."""

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType

from gateway.doctor.attack.inside import report
from gateway.doctor.attack.outcome import Outcome, Verdict

_METADATA = ("169.254.169.254", "169.254.170.2", "100.100.100.200")  # AWS, GCP and Azure; ECS; Alibaba
_SCRATCH = ("/tmp", "/var/tmp", "/run", "/run/lock", "/dev/shm", "/var/log", "/opt", "/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """The targets of the attempts, and the amounts with which they exceed limits."""

    neighbours: Sequence[str]  # addresses of other sessions
    neighbour_names: Sequence[str]  # of their containers
    neighbour_sessions: Sequence[str]  # their ids
    users: Sequence[str]  # owners of other workspaces
    hosts: Sequence[str]  # every address of the host, IPv4 and IPv6
    links: Sequence[str]  # the host's and other sessions' IPv6 link-local addresses
    ports: Sequence[int]  # of API, router, sshd, Docker and other listening programs
    proxies: Sequence[str] = ()  # egress proxies, as ADDRESS:PORT
    ssh_port: int = 2222
    outside: Sequence[str] = ("192.0.2.1", "198.51.100.1", "1.1.1.1", "8.8.8.8")
    outside_name: str = "example.com"
    metadata: Sequence[str] = _METADATA
    scratch: Sequence[str] = _SCRATCH  # directories that are not the workspace
    processes: int = 5000
    memory_mib: int
    tcp_mib: int  # 0 where TCP buffers count as memory
    filler_mib: int
    files: int = 1_000_000
    open_files: int = 1_100_000
    log_mib: int = 64
    door_requests: int = 200
    linger_seconds: int = 3600
    door_burst: int = 5  # requests that a session may send at once
    refusals: bool = True  # whether a refusal shows that packets arrive: a firewall may send some as well

    @property
    def beyond(self) -> Sequence[str]:
        """Return some addresses of each kind that a proxy must deny."""
        ipv4 = [address for address in self.hosts if ":" not in address]
        return [*self.neighbours, *ipv4, *self.metadata[:1], *self.outside[:1]]


@dataclass(frozen=True, slots=True)
class Probe:
    """An attempt: the function `attempt` of a script, and the field of `Targets` for each of its parameters.

    No other attempt may run at the same time as one that is `alone`.
    """

    name: str
    script: ModuleType
    attempt: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    alone: bool = False

    @property
    def tries(self) -> str:
        """Return what the attempt tries, as a sentence."""
        return inspect.getdoc(getattr(self.script, self.attempt)) or self.name

    def command(self, targets: Targets) -> list[str]:
        """Return the command to run inside the session as its user. It needs `python3` there."""
        source = "\n".join((inspect.getsource(self.script), inspect.getsource(report), "report(globals())"))
        arguments = {name: getattr(targets, target) for name, target in self.parameters.items()}
        return ["python3", "-c", source, self.attempt, json.dumps(arguments)]


def judge(exit_code: int, output: str) -> Outcome:
    """Return the outcome that the command's exit code and standard output report."""
    lines = output.strip().splitlines() or ["it printed nothing"]
    try:
        reported = json.loads(lines[-1])
        outcome = Outcome(Verdict(reported["verdict"]), str(reported["why"]))
    except (KeyError, TypeError, ValueError):
        return _broken(exit_code, lines[-1])
    return outcome if exit_code == 0 else _broken(exit_code, lines[-1])


def _broken(exit_code: int, last_line: str) -> Outcome:
    return Outcome(Verdict.UNCLEAR, f"the attempt failed to run (exit code {exit_code}): {last_line[:200]}")
