"""Every setting, each a flag and an environment variable, checked once before anything starts."""

import ipaddress
import os
import re
import socket
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from gateway import logs
from gateway.database_url import DatabaseUrl
from gateway.errors import StartRefused

_STATE_DIR = Path("/var/lib/orchestrator")
_POSITIVE = (
    "session-cpus",
    "session-pids",
    "session-open-files",
    "max-ttl-minutes",
    "history-days",
    "start-timeout-seconds",
    "workers",
    "threads",
)
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_MIG_POLICIES = ("dynamic", "static", "mixed")
_SIZE = re.compile(r"[1-9][0-9]*[kmg]")
_EGRESS = ("none", "allowlist")
_OPEN_HOST = re.compile(r"\.?[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?:[1-9][0-9]{0,4}")
_QUOTA = re.compile(r"([1-9][0-9]*)([mgt])")
_BYTES = {"m": 2**20, "g": 2**30, "t": 2**40}


def _setting(default: Any, explanation: str) -> Any:
    if callable(default):
        return field(default_factory=default, metadata={"help": explanation})
    return field(default=default, metadata={"help": explanation})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The gateway's settings. `Settings.load()` reads them from flags and environment."""

    port: int = _setting(8080, "API port")
    listen: str = _setting(
        "127.0.0.1", "address the API listens on, or unix:/PATH; beyond loopback only with tokens"
    )
    db: DatabaseUrl = _setting(
        DatabaseUrl(_STATE_DIR / "sessions.db"), "SQLite database, or URL of one of PostgreSQL's"
    )
    state_dir: Path = _setting(
        None, f"run-time state, mounted into sessions (that of an SQLite --db, else {_STATE_DIR})"
    )
    piper_config: Path = _setting(Path("/etc/sshpiper/pipe.yaml"), "SSHPiper configuration")
    workspace_root: Path = _setting(Path("/srv/workspaces"), "root of the workspaces")
    workspace_quota: str = _setting("", "the most that a user's workspace may hold, such as 200g")
    ssh_host: str = _setting(socket.gethostname, "name that users give to ssh")
    ssh_port: int = _setting(22, "port of the SSH entry point")
    ssh_host_key: Path | None = _setting(
        None, "public host key of the SSH entry point (beside --piper-config if not set)"
    )
    simulate_gpus: str = _setting("", "GPUs to simulate where there is no driver, such as 2xA100-40GB")
    mig_policy: str = _setting(
        "dynamic", "slices are made (dynamic), leased from those that stand (static), or either (mixed)"
    )
    image: str = _setting("gpu-workspace", "image that sessions run")
    network: str = _setting("worknet", "Docker network of the sessions")
    subnet: str = _setting("10.213.0.0/20", "IPv4 subnet of that network")
    egress: str = _setting("none", "sessions reach nothing outside (none), or --egress-hosts (allowlist)")
    egress_hosts: str = _setting(
        "", "what they reach then, such as pypi.org:443,.pythonhosted.org:443; a dot: subdomains too"
    )
    session_memory: str = _setting("16g", "memory limit of a session (no swap beyond it)")
    session_cpus: float = _setting(lambda: float(min(8, os.cpu_count() or 1)), "CPU limit of a session")
    session_pids: int = _setting(1024, "process limit of a session")
    session_open_files: int = _setting(16384, "open files of each process of a session")
    session_shm: str = _setting("1g", "size of a session's /dev/shm; counts against its memory")
    session_tmp: str = _setting("2g", "size of a session's /tmp and /var/tmp; counts against its memory")
    read_only_root: bool = _setting(
        True, "let a session write to nothing but its workspace and its temporary directories"
    )
    max_ttl_minutes: int = _setting(10080, "longest lease that a request may ask for")
    history_days: int = _setting(30, "how long ended sessions and events are kept")
    start_timeout_seconds: int = _setting(30, "how long a new session's sshd may take to answer")
    log_format: str = _setting("text", "one line an event, as key=value (text) or json")
    workers: int = _setting(1, "gunicorn worker processes")
    threads: int = _setting(128, "threads of each worker; one that waits for a slow client costs little")

    def __post_init__(self) -> None:
        if self.state_dir is None:
            object.__setattr__(self, "state_dir", self.db.path.parent if self.db.path else _STATE_DIR)
        for flag, problem in self._problems():
            raise StartRefused(f"--{flag} ({_variable(flag)}): {problem}")

    @classmethod
    def load(
        cls, environ: Mapping[str, str], flags: Mapping[str, str | bool | None] | None = None
    ) -> "Settings":
        """Settings from `flags` where given, else from `environ` (GATEWAY_PORT, …), else the defaults.

        Raises `StartRefused` with one line that names the flag and what is wrong with it.
        """
        if environ.get("GATEWAY_INSECURE_LISTEN"):
            raise StartRefused(
                "GATEWAY_INSECURE_LISTEN is no setting any more: unset it, and make a token with "
                "`gateway token create`; then any --listen will do."
            )
        given: dict[str, Any] = {}
        hints = typing.get_type_hints(cls)
        for setting in fields(cls):
            text = (flags or {}).get(setting.name)
            if text is None:
                text = environ.get(_variable(setting.name)) or None
            if text is not None:
                given[setting.name] = _convert(setting.name, text, hints[setting.name])
        if (flags or {}).get("db") and given["db"].has_password:
            raise StartRefused(
                "--db: everybody here can read a command line. Give the URL as GATEWAY_DB, or keep its "
                "password in a file that PGPASSFILE names."
            )
        return cls(**given)

    @classmethod
    def from_env(cls) -> "Settings":
        return cls.load(os.environ)

    @property
    def entry_host_key(self) -> Path:
        return self.ssh_host_key or self.piper_config.parent / "ssh_host_ed25519_key.pub"

    @property
    def workspace_quota_bytes(self) -> int | None:
        if not (size := _QUOTA.fullmatch(self.workspace_quota)):
            return None
        return int(size[1]) * _BYTES[size[2]]

    @property
    def open_hosts(self) -> list[str]:
        """What sessions reach outside, each as `HOST:PORT`."""
        return [host.strip().lower() for host in self.egress_hosts.split(",") if host.strip()]

    @property
    def listens_locally(self) -> bool:
        """On loopback or a unix socket."""
        return self.listen.startswith("unix:") or ipaddress.ip_address(self.listen).is_loopback

    def _problems(self) -> typing.Iterator[tuple[str, str]]:
        for name in ("port", "ssh-port"):
            if not 1 <= getattr(self, name.replace("-", "_")) <= 65535:
                yield name, "a port lies between 1 and 65535."
        for name in ("state-dir", "piper-config", "workspace-root"):
            if not getattr(self, name.replace("-", "_")).is_absolute():
                yield name, "give an absolute path; Docker mounts it."
        for name in _POSITIVE:
            if getattr(self, name.replace("-", "_")) <= 0:
                yield name, "must be greater than 0."
        if not _HOST_NAME.fullmatch(self.ssh_host):
            yield "ssh-host", f"{self.ssh_host!r} is not a host name."
        for name in ("session-memory", "session-shm", "session-tmp"):
            if not _SIZE.fullmatch(size := getattr(self, name.replace("-", "_"))):
                yield name, f"{size!r} is not a size such as 16g or 512m."
        if self.workspace_quota and not _QUOTA.fullmatch(self.workspace_quota):
            yield "workspace-quota", f"{self.workspace_quota!r} is not a size such as 200g or 2t."
        if self.mig_policy not in _MIG_POLICIES:
            yield "mig-policy", f"{self.mig_policy!r} is none of {', '.join(_MIG_POLICIES)}."
        if self.log_format not in logs.FORMATS:
            yield "log-format", f"{self.log_format!r} is neither of {' and '.join(logs.FORMATS)}."
        yield from self._listen_problems()
        yield from self._subnet_problems()
        yield from self._egress_problems()

    def _listen_problems(self) -> typing.Iterator[tuple[str, str]]:
        if self.listen.startswith("unix:/"):
            return
        try:
            ipaddress.ip_address(self.listen)
        except ValueError:
            yield "listen", f"{self.listen!r} is neither an IP address nor unix:/PATH."

    def _subnet_problems(self) -> typing.Iterator[tuple[str, str]]:
        try:
            network = ipaddress.IPv4Network(self.subnet)
        except ValueError:
            yield "subnet", f"{self.subnet!r} is not an IPv4 subnet such as 10.213.0.0/20."
        else:
            if network.prefixlen > 29:
                yield "subnet", "needs room for sessions; /29 is the smallest."

    def _egress_problems(self) -> typing.Iterator[tuple[str, str]]:
        if self.egress not in _EGRESS:
            yield "egress", f"{self.egress!r} is neither of {' and '.join(_EGRESS)}."
        for host in self.open_hosts:
            if not _OPEN_HOST.fullmatch(host) or int(host.rpartition(":")[2]) > 65535:
                yield "egress-hosts", f"{host!r} is not HOST:PORT."
        if self.egress == "none" and self.open_hosts:
            yield "egress-hosts", "says what --egress allowlist opens, which is not set."
        if self.egress == "allowlist" and not self.open_hosts:
            yield "egress", "allowlist needs --egress-hosts, such as pypi.org:443,.pythonhosted.org:443."


def _variable(name: str) -> str:
    return "GATEWAY_" + name.replace("-", "_").upper()


def _convert(name: str, text: str | bool, hint: Any) -> Any:
    if isinstance(hint, types.UnionType):
        hint = next(option for option in typing.get_args(hint) if option is not types.NoneType)
    if hint is bool:
        return text if isinstance(text, bool) else text.strip().lower() in {"1", "true", "yes", "on"}
    try:
        return hint(text)
    except ValueError:
        flag = name.replace("_", "-")
        kind = {int: "a whole number", float: "a number"}.get(hint, "valid")
        raise StartRefused(f"--{flag} ({_variable(name)}): {text!r} is not {kind}.") from None
