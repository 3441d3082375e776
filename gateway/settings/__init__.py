"""Every setting: a flag and an environment variable, both checked before anything starts."""

import functools
import ipaddress
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import tzinfo
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import marshmallow

from gateway import logs
from gateway.database_url import DatabaseUrl
from gateway.domain.activity import IdlePolicy
from gateway.domain.mig import MigPolicy
from gateway.domain.uids import UidRange
from gateway.errors import StartRefused
from gateway.languages import ENGLISH, LANGUAGES
from gateway.settings import kinds
from gateway.settings.contradictions import contradictions
from gateway.settings.kinds import Minutes, NumberOrAuto, Parsed, Site, Size, Switch, Whole
from gateway.settings.names import title, typing_errors, variable

_STATE_DIR = Path("/var/lib/orchestrator")
_PORT = 1, 65535
_CPUS = os.cpu_count() or 1

Flags = Mapping[str, str | bool | None]


def _setting(
    kind: marshmallow.fields.Field[Any], default: Any, form: str, sentence: str, unset: str = ""
) -> Any:
    """`form`, `sentence` and `unset` are for --help: value, meaning, and a default without a text."""
    about = {"kind": kind, "form": form, "help": sentence, "unset": unset}
    if callable(default):
        return field(default_factory=default, metadata=about)
    return field(default=default, metadata=about)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The gateway's settings. `Settings.load()` reads them from flags and environment."""

    port: int = _setting(Whole(*_PORT), 8080, "N", "The API listens on this port.")
    listen: str = _setting(
        Parsed(kinds.listen_address),
        "127.0.0.1",
        "ADDRESS",
        "The API listens on this address, or unix:/PATH.",
    )
    site: str = _setting(
        kinds.one_of(tuple(Site)), "host", "SITE", "Sessions run on this host or on a kubernetes cluster."
    )
    namespace_sessions: str = _setting(
        Parsed(kinds.namespace), "gpu-sessions", "NAME", "Sessions are pods of this namespace."
    )
    namespace_routes: str = _setting(
        Parsed(kinds.namespace), "gpu-routes", "NAME", "The routes are Pipes of this namespace."
    )
    storage_class: str = _setting(
        Parsed(kinds.object_name), "", "NAME", "Homes are volumes of this class.", "the cluster's default"
    )
    volume_access: str = _setting(
        kinds.one_of(("ReadWriteOnce", "ReadWriteMany")),
        "ReadWriteOnce",
        "MODE",
        "Homes have this access mode.",
    )
    device_class_prefix: str = _setting(
        Parsed(kinds.object_name), "mig-", "TEXT", "Profiles have DeviceClasses with this prefix."
    )
    memory_per_slice: Size = _setting(
        kinds.size("512m", "1t"), Size("16g"), "SIZE", "A pod has so much for each memory slice of its GPU."
    )
    lease_service: str = _setting(
        Parsed(kinds.service), "", "NAMESPACE/NAME", "`lease` reaches the API by this Service.", "none"
    )
    egress_service: str = _setting(
        Parsed(kinds.service), "", "NAMESPACE/NAME", "Sessions reach --egress-hosts by this Service.", "none"
    )
    advice: bool = _setting(
        Switch(), True, "", "The scheduler of the cluster places sessions without advice."
    )
    trusted_hosts: tuple[str, ...] = _setting(
        Parsed(kinds.host_names), (), "HOSTS", "Clients may call the API by these names too."
    )
    public_url: str = _setting(
        Parsed(kinds.public_url), "", "URL", "Clients reach the API here, such as by a proxy.", "none"
    )
    db: DatabaseUrl = _setting(
        Parsed(kinds.database),
        DatabaseUrl(_STATE_DIR / "sessions.db"),
        "PATH|URL",
        "The sessions are recorded in this database.",
    )
    state_dir: Path = _setting(
        Parsed(kinds.absolute_path),
        None,
        "PATH",
        "The files of the sessions are in this directory.",
        "the directory of --db",
    )
    piper_config: Path = _setting(
        Parsed(kinds.absolute_path),
        Path("/etc/sshpiper/pipe.yaml"),
        "PATH",
        "The routes are in this file, which SSHPiper reads.",
    )
    workspace_root: Path = _setting(
        Parsed(kinds.absolute_path),
        Path("/srv/workspaces"),
        "PATH",
        "Each user has a workspace in this directory.",
    )
    workspace_quota: Size | None = _setting(
        kinds.size("1m", "1048576t"),
        None,
        "SIZE",
        "A workspace may hold this much, such as 200g.",
        "no limit",
    )
    uid_range: UidRange = _setting(
        Parsed(kinds.uid_range), UidRange(), "FIRST-LAST", "New users get uids of this range."
    )
    ssh_host: str = _setting(
        Parsed(kinds.host_name), socket.gethostname, "HOST", "Users give this host name to ssh."
    )
    ssh_port: int = _setting(Whole(*_PORT), 22, "N", "Users give this port to ssh.")
    ssh_host_key: Path | None = _setting(
        Parsed(kinds.absolute_path),
        None,
        "PATH",
        "Users recognise the router by this public key.",
        "beside --piper-config",
    )
    lobby: tuple[str, int] | None = _setting(
        Parsed(kinds.lobby),
        None,
        "HOST:PORT",
        "SSHPiper leads users without a session here.",
        "none",
    )
    simulate_gpus: str = _setting(
        Parsed(kinds.gpus_to_simulate), "", "GPUS", "Simulate GPUs, such as 2xA100-40GB.", "the driver's"
    )
    mig_policy: str = _setting(
        kinds.one_of(tuple(MigPolicy)), "dynamic", "POLICY", "Make slices dynamic, static or mixed."
    )
    whole_gpus: bool = _setting(Switch(), False, "", "GPUs without MIG are leased whole, as `full`.")
    image: str = _setting(Parsed(kinds.image_name), "gpu-workspace", "IMAGE", "Sessions run this image.")
    images: tuple[tuple[str, str], ...] = _setting(
        Parsed(kinds.named_images), (), "NAME=IMAGE,…", "Requests may name these images, too."
    )
    network: str = _setting(
        Parsed(kinds.network_name), "worknet", "NAME", "Sessions are on this Docker network."
    )
    subnet: str = _setting(
        Parsed(kinds.subnet), "10.213.0.0/20", "SUBNET", "That network has these IPv4 addresses."
    )
    egress: str = _setting(
        kinds.one_of(("none", "allowlist")),
        "none",
        "MODE",
        "Sessions reach none or an allowlist of hosts.",
    )
    egress_hosts: tuple[str, ...] = _setting(
        Parsed(kinds.hosts_and_ports), (), "HOSTS", "Sessions reach these hosts, such as pypi.org:443."
    )
    egress_private_subnets: tuple[str, ...] = _setting(
        Parsed(kinds.private_subnets), (), "SUBNETS", "Those hosts may be in these private subnets.", "none"
    )
    allow_weaker: tuple[str, ...] = _setting(
        Parsed(kinds.weaknesses),
        (),
        "NAMES",
        "Accept these weaknesses of Docker.",
    )
    session_memory: Size | None = _setting(
        kinds.size_or_auto("6m", "1024t"),
        None,
        "SIZE|auto",
        "A session may use this much memory, or its slice's share.",
        "auto",
    )
    session_cpus: float | None = _setting(
        NumberOrAuto(0.01, _CPUS),
        None,
        "N|auto",
        "A session may use this many CPUs, or its slice's share.",
        "auto",
    )
    session_pids: int = _setting(Whole(1, 4194304), 1024, "N", "A session may have this many processes.")
    session_open_files: int = _setting(
        Whole(1, 1073741816), 16384, "N", "A process may have this many files open."
    )
    session_shm: Size = _setting(
        kinds.size("4k", "1024t"), Size("1g"), "SIZE", "/dev/shm may hold this much, which is memory."
    )
    session_tmp: Size = _setting(
        kinds.size("4k", "1024t"), Size("2g"), "SIZE", "/tmp and /var/tmp may each hold this much memory."
    )
    session_io: Size | None = _setting(
        kinds.size("64k", "1t"), None, "SIZE", "A session may read and write this much a second.", "no limit"
    )
    session_bandwidth: Size | None = _setting(
        kinds.size("64k", "1t"),
        None,
        "SIZE",
        "A session may send and receive this much a second.",
        "no limit",
    )
    read_only_root: bool = _setting(Switch(), True, "", "Sessions may change the files of the image.")
    max_ttl_minutes: int = _setting(
        Whole(1, 5256000), 10080, "N", "A request may ask for a lease of this many minutes."
    )
    max_lease_minutes: int = _setting(
        Whole(1, 5256000),
        None,
        "N",
        "A lease may last this many minutes with its extensions.",
        "--max-ttl-minutes",
    )
    warn_minutes: Minutes = _setting(
        Parsed(kinds.minutes_before_the_end),
        Minutes((30, 10, 2)),
        "N,N,…",
        "Warn users so many minutes before a lease ends, or none.",
    )
    end_signal_seconds: int = _setting(
        Whole(0, 3600), 30, "N", "Programs get SIGTERM so many seconds before a lease ends; 0: never."
    )
    idle_minutes: int = _setting(
        Whole(0, 525600), 0, "N", "Sessions that nobody uses end after this many minutes; 0: never."
    )
    idle_connected_minutes: int = _setting(
        Whole(0, 525600), 0, "N", "A connection counts as idle when silent for so many minutes; 0: never."
    )
    idle_policy: str = _setting(
        kinds.one_of(tuple(IdlePolicy)),
        "waiting",
        "POLICY",
        "Unused sessions end if somebody is waiting, or always.",
    )
    dcgm_exporter: str = _setting(
        Parsed(kinds.public_url), "", "URL", "NVIDIA's dcgm-exporter says here how busy slices are.", "none"
    )
    language: str = _setting(
        kinds.one_of(tuple(LANGUAGES)), ENGLISH, "LANGUAGE", "Users read texts in this language: en or ko."
    )
    timezone: tzinfo | None = _setting(
        Parsed(kinds.time_zone), None, "ZONE", "Users read times in this time zone.", "the host's"
    )
    notice_days: int = _setting(
        Whole(0, 36500), 7, "N", "Users read why their session ended for this many days; 0: never."
    )
    contact: str = _setting(
        Parsed(kinds.contact), "", "TEXT", "Users ask here for a session, such as ops@lab.example.", "none"
    )
    metrics_users: bool = _setting(
        Switch(), False, "", "/metrics counts the seconds of slices for each user."
    )
    webhook_networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = _setting(
        Parsed(kinds.networks), (), "NETWORKS", "Webhooks may go to these networks, such as 127.0.0.0/8."
    )
    claim_minutes: int = _setting(
        Whole(0, 5256000), 15, "N", "A user who waited has this long to log in; 0: for ever."
    )
    history_days: int = _setting(
        Whole(1, 36500), 30, "N", "Ended sessions and events are kept this many days."
    )
    start_timeout_seconds: int = _setting(
        Whole(1, 3600), 30, "N", "A new session has this long to let its user in."
    )
    log_format: str = _setting(kinds.one_of(logs.FORMATS), "text", "FORMAT", "Log lines are text or json.")
    workers: int = _setting(Whole(1, 256), 1, "N", "The API has this many processes.")
    threads: int = _setting(Whole(1, 4096), 128, "N", "Each process of the API has this many threads.")

    def __post_init__(self) -> None:
        if self.state_dir is None:
            object.__setattr__(self, "state_dir", self.db.path.parent if self.db.path else _STATE_DIR)
        if self.max_lease_minutes is None:
            object.__setattr__(self, "max_lease_minutes", self.max_ttl_minutes)

    @classmethod
    def load(cls, environ: Mapping[str, str], flags: Flags | None = None) -> "Settings":
        """Settings from `flags` where given, else from `environ` (GATEWAY_PORT, …), else the defaults.

        Raises `StartRefused` with a line for each setting that is wrong, for settings that contradict each
        other, and for variables with a typing error in their name.
        """
        given = _given(environ, flags or {})
        try:
            values, errors = _schema().load(given), {}
        except marshmallow.ValidationError as invalid:
            values, errors = invalid.valid_data, invalid.messages_dict
        settings = cls(**values)
        problems = [
            *(f"{title(name)}: {message}" for name in errors for message in errors[name]),
            *_password_on_the_command_line(settings, flags or {}),
            *(
                f"{title(found.between[0])}: {found.problem}"
                for found in contradictions(settings)
                if not errors.keys() & set(found.between)
            ),
            *typing_errors(environ, (setting.name for setting in fields(cls))),
        ]
        if problems:
            raise StartRefused("\n".join(problems))
        return settings

    @classmethod
    def from_env(cls) -> "Settings":
        return cls.load(os.environ)

    @property
    def entry_host_keys(self) -> tuple[Path, ...]:
        """The files with the router's public keys; not each of them needs to exist."""
        if self.ssh_host_key:
            return (self.ssh_host_key,)
        names = (f"ssh_host_{kind}_key.pub" for kind in ("ed25519", "ecdsa", "rsa"))
        return tuple(self.piper_config.parent / name for name in names)

    @property
    def named_images(self) -> dict[str, str]:
        """What Docker calls each image, by the name that requests use."""
        return {"default": self.image, **dict(self.images)}

    @property
    def is_cluster(self) -> bool:
        return self.site == Site.KUBERNETES

    @property
    def workspace_quota_bytes(self) -> int | None:
        return _bytes(self.workspace_quota)

    @property
    def session_io_bytes(self) -> int | None:
        return _bytes(self.session_io)

    @property
    def session_bandwidth_bytes(self) -> int | None:
        return _bytes(self.session_bandwidth)

    @property
    def open_hosts(self) -> list[str]:
        """What sessions reach outside, each as `HOST:PORT`."""
        return list(self.egress_hosts)

    @property
    def api_url(self) -> str:
        """Where clients on this machine reach the API."""
        if self.listen.startswith("unix:"):
            return self.listen
        address = ipaddress.ip_address(self.listen)
        if address.is_unspecified:
            return f"http://localhost:{self.port}"
        return f"http://[{address}]:{self.port}" if address.version == 6 else f"http://{address}:{self.port}"

    @property
    def api_hosts(self) -> tuple[str, ...]:
        """The names by which clients may call the API, beside loopback."""
        public = urlsplit(self.public_url).hostname
        return (self.ssh_host, *self.trusted_hosts, *([public] if public else []))

    @property
    def listens_locally(self) -> bool:
        """On loopback or a unix socket."""
        return self.listen.startswith("unix:") or ipaddress.ip_address(self.listen).is_loopback

    @property
    def is_private(self) -> bool:
        """Only this machine reaches the API, and no proxy forwards to it."""
        return self.listens_locally and not self.public_url


def _bytes(size: Size | None) -> int | None:
    return Size(size).bytes if size else None


def _given(environ: Mapping[str, str], flags: Flags) -> dict[str, str | bool]:
    """What was set, by the name of the setting. An empty variable counts as unset."""
    given: dict[str, str | bool] = {}
    for setting in fields(Settings):
        value = flags.get(setting.name)
        if value is None:
            value = environ.get(variable(setting.name), "").strip() or None
        if value is not None:
            given[setting.name] = value
    return given


@functools.cache
def _schema() -> marshmallow.Schema:
    return marshmallow.Schema.from_dict(
        {setting.name: setting.metadata["kind"] for setting in fields(Settings)}, name="Settings"
    )()


def _password_on_the_command_line(settings: Settings, flags: Flags) -> Iterator[str]:
    if flags.get("db") and settings.db.has_password:
        yield (
            "--db: every user of this machine can read a command line: give the URL as GATEWAY_DB, or keep "
            "its password in a file that PGPASSFILE names."
        )
