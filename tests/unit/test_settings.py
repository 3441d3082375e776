"""Settings: every wrong value stops the start, and all of them are reported at once."""

import logging
import re
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest

from gateway.database_url import DatabaseUrl
from gateway.errors import StartRefused
from gateway.settings import Settings
from gateway.settings.names import OTHER_VARIABLES, flag, variable

ROOT = Path(__file__).parents[2]
PASSWORD = "s3cret-p4ss"


def refusal(environ: Mapping[str, str] | None = None, **flags: str | bool) -> str:
    with pytest.raises(StartRefused) as refused:
        Settings.load(environ or {}, flags)
    return str(refused.value)


def test_the_defaults_are_those_of_the_contract() -> None:
    settings = Settings.load({})
    assert settings.port == 8080
    assert str(settings.db) == "/var/lib/orchestrator/sessions.db"
    assert str(settings.piper_config) == "/etc/sshpiper/pipe.yaml"
    assert str(settings.workspace_root) == "/srv/workspaces"
    assert settings.ssh_port == 22
    assert settings.listen == "127.0.0.1"
    assert settings.read_only_root is True


def test_the_defaults_are_valid_settings() -> None:
    defaults = Settings.load({})
    for setting in fields(Settings):
        value = getattr(defaults, setting.name)
        if value not in (None, "", ()):
            assert getattr(Settings.load({variable(setting.name): str(value)}), setting.name) is not None


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(FrozenInstanceError):
        Settings.load({}).port = 9000  # type: ignore[misc]


def test_a_flag_goes_before_the_environment_and_the_environment_before_the_default() -> None:
    environ = {"GATEWAY_PORT": "9000", "GATEWAY_DB": "/x/y.db"}
    settings = Settings.load(environ, {"port": "9001", "db": None})
    assert (settings.port, str(settings.db)) == (9001, "/x/y.db")


def test_an_empty_variable_counts_as_unset() -> None:
    assert Settings.load({"GATEWAY_PORT": "", "GATEWAY_SESSION_MEMORY": " "}) == Settings.load({})


WRONG = [
    *(("port", text) for text in ("0", "65536", "-1", "http", "8080.0", "8_080", "８０８０", "1" * 5000)),
    *(("ssh_port", text) for text in ("70000", "ssh")),
    *(("listen", text) for text in ("localhost", "127.0.0.1:8080", "unix:relative", "unix:/" + "a" * 200)),
    *(
        ("db", text)
        for text in ("sessions.db", "mysql://h/x", "postgresql:/h/x", "//h/x", "postgresql://h:p/x")
    ),
    *((name, "relative") for name in ("state_dir", "piper_config", "workspace_root", "ssh_host_key")),
    *(("piper_config", text) for text in ("/etc/a\nb", "/etc/\x1b[2J")),
    *(("ssh_host", text) for text in ("a b", "-a.example", "a..b", "a_b", "a" * 64, "10.0.0.999", "a/b")),
    *(("subnet", text) for text in ("10.0.0", "10.0.0.1/24", "10.0.0.0/30", "0.0.0.0/0", "fd00::/64")),
    *(("subnet", text) for text in ("127.0.0.0/24", "224.0.0.0/24", "169.254.0.0/24")),
    *(("network", text) for text in ("bridge", "host", "none", "a b", "-a", "../x")),
    *(("image", text) for text in ("gpu workspace", "-v", "a;b")),
    *(("simulate_gpus", text) for text in ("2", "A100-40GB", "0xA100-40GB", "2xA100-40GB;")),
    *((name, "much") for name in ("session_memory", "session_shm", "session_tmp", "workspace_quota")),
    *(("session_memory", text) for text in ("16", "0g", "-1g", "1.5g", "16 g", "16gb", "5m", "99999999t")),
    *(("session_cpus", text) for text in ("-1", "0", "nan", "inf", "1e1", "four", "100000")),
    *(("session_pids", text) for text in ("0", "-1", "many", "99999999")),
    *(("session_open_files", text) for text in ("0", "unlimited")),
    *(("read_only_root", text) for text in ("ture", "2", "nope", "enabled")),
    *(("notice_days", text) for text in ("-1", "1w", "999999999999")),
    *(("lobby", text) for text in ("127.0.0.1", ":2223", "a b:1", "h:0", "h:70000")),
    *(("contact", text) for text in ("a\nb", "red \x1b[31m", "a" * 201)),
    *(("history_days", text) for text in ("0", "999999999999", "month")),
    *(("max_ttl_minutes", text) for text in ("0", "1h", "99999999999")),
    *(("start_timeout_seconds", text) for text in ("0", "-5", "30s")),
    *((name, "0") for name in ("workers", "threads")),
    ("mig_policy", "frozen"),
    ("site", "swarm"),
    *(("namespace_sessions", text) for text in ("GPU", "a_b", "-a", "a" * 64)),
    *((name, text) for name in ("storage_class", "device_class_prefix") for text in ("Fast", "a b", "-a")),
    ("volume_access", "rwx"),
    ("memory_per_slice", "1m"),
    ("log_format", "xml"),
    ("egress", "all"),
    *(
        ("egress_hosts", text)
        for text in ("pypi.org", "pypi.org:443,a b:1", "pypi.org:70000", "a..b:1", ":443")
    ),
    *(
        ("egress_private_subnets", text)
        for text in (
            "10.0.0.1/24",
            "mirror",
            "fd00::/64",
            "8.8.8.0/24",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "0.0.0.0/0",
        )
    ),
]


@pytest.mark.parametrize(("name", "text"), WRONG)
def test_a_wrong_value_is_refused_in_one_line_by_name(name: str, text: str) -> None:
    for message in (refusal({variable(name): text}), refusal({}, **{name: text})):
        line, *others = message.splitlines()
        assert line.startswith(f"{flag(name)} ({variable(name)}): ")
        assert not [other for other in others if not other.startswith("--egress")]
        assert re.search(r": .*: .*use|write it", line)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("port", " 8081 ", 8081),
        ("listen", "::1", "::1"),
        ("ssh_host", "SSH-1.example.org", "SSH-1.example.org"),
        ("ssh_host", "192.0.2.7", "192.0.2.7"),
        ("ssh_host", "2001:db8::7", "2001:db8::7"),
        ("session_memory", "32G", "32g"),
        ("session_cpus", "0.5", 0.5),
        ("session_cpus", "AUTO", None),
        ("session_memory", "auto", None),
        ("read_only_root", "FALSE", False),
        ("read_only_root", "no", False),
        ("read_only_root", "On", True),
        ("read_only_root", "1", True),
        ("image", "ghcr.io:443/gpu/space:24.04@sha256:0a", "ghcr.io:443/gpu/space:24.04@sha256:0a"),
        ("simulate_gpus", "2xA100-40GB, 1xL4", "2xA100-40GB, 1xL4"),
        ("subnet", "192.168.7.0/29", "192.168.7.0/29"),
        ("workspace_root", "/srv/über uns", Path("/srv/über uns")),
    ],
)  # fmt: skip
def test_a_right_value_is_taken(name: str, text: str, value: Any) -> None:
    assert getattr(Settings.load({variable(name): text}), name) == value


def test_all_wrong_settings_are_reported_at_once() -> None:
    environ = {
        "GATEWAY_READ_ONLY_ROOT": "ture",
        "GATEWAY_SSH_PORT": "ssh",
        "GATEWAY_SESSION_TMP": "20g",
        "GATEWAY_WORKSPACE_QOUTA": "200g",
    }
    lines = refusal(environ, port="http").splitlines()
    assert [line.partition(" ")[0] for line in lines] == [
        "--port",
        "--ssh-port",
        "--read-only-root",
        "--session-tmp",
        "GATEWAY_WORKSPACE_QOUTA",
    ]


ON_A_CLUSTER = {
    "site": "kubernetes",
    "db": "postgresql://gateway@db.example/gateway",
    "workspace_quota": "200g",
}
OF_A_PROXY = {"egress": "allowlist", "egress_hosts": "pypi.org:443"}


@pytest.mark.parametrize(
    ("given", "first", "also"),
    [
        (
            {"session_tmp": "12g", "session_shm": "5g", "session_memory": "16g"},
            "session_tmp",
            "--session-memory 16g",
        ),
        ({"session_tmp": "4g"}, "session_tmp", "--session-memory auto, which is 4g for the smallest slice"),
        ({"session_memory": "2g"}, "session_tmp", "--session-memory 2g"),
        ({"egress_hosts": "pypi.org:443"}, "egress_hosts", "--egress allowlist"),
        ({"egress": "allowlist"}, "egress", "--egress-hosts"),
        ({"egress_private_subnets": "10.20.0.0/16"}, "egress_private_subnets", "--egress allowlist"),
        ({"port": "22"}, "port", "--ssh-port"),
        ({"listen": "10.213.0.1"}, "listen", "--subnet"),
        ({"db": "/srv/workspaces/sessions.db", "state_dir": "/var/lib/x"}, "db", "--workspace-root"),
        ({"state_dir": "/srv/workspaces"}, "state_dir", "--workspace-root"),
        ({"piper_config": "/srv/x/../workspaces/a/pipe.yaml"}, "piper_config", "--workspace-root"),
        ({"storage_class": "fast"}, "storage_class", "--site kubernetes"),
        ({**OF_A_PROXY, "egress_service": "gpu-egress/proxy"}, "egress_service", "--site kubernetes"),
        ({**ON_A_CLUSTER, **OF_A_PROXY}, "egress", "--egress-service"),
        ({**ON_A_CLUSTER, "egress_service": "gpu-egress/proxy"}, "egress_service", "--egress allowlist"),
        ({**ON_A_CLUSTER, "db": "/var/lib/orchestrator/sessions.db"}, "db", "PostgreSQL"),
        ({"site": "kubernetes", "db": ON_A_CLUSTER["db"]}, "workspace_quota", "the size of a home"),
        ({**ON_A_CLUSTER, "simulate_gpus": "2xA100-40GB"}, "simulate_gpus", "DRA driver publishes"),
        ({**ON_A_CLUSTER, "mig_policy": "static"}, "mig_policy", "--site kubernetes"),
        ({**ON_A_CLUSTER, "subnet": "10.1.0.0/20"}, "subnet", "--site kubernetes"),
        ({**ON_A_CLUSTER, "piper_config": "/routes/pipe.yaml"}, "piper_config", "gateway mirror-pipes"),
        (
            {**ON_A_CLUSTER, "dcgm_exporter": "http://localhost:9400/metrics"},
            "dcgm_exporter",
            "does not measure slices",
        ),
        ({**ON_A_CLUSTER, "session_memory": "16g"}, "session_memory", "--memory-per-slice"),
        ({**ON_A_CLUSTER, "memory_per_slice": "4g"}, "memory_per_slice", "--session-tmp 2g"),
    ],
)
def test_settings_that_contradict_each_other_stop_the_start(
    given: dict[str, str], first: str, also: str
) -> None:
    [line] = refusal({variable(name): text for name, text in given.items()}).splitlines()
    assert line.startswith(f"{flag(first)} ({variable(first)}): ")
    assert also in line


@pytest.mark.parametrize(
    "given",
    [
        {"session_tmp": "12g", "session_shm": "4g", "session_memory": "16g"},
        {"session_tmp": "3g", "session_shm": "1g", "session_memory": "auto", "session_cpus": "auto"},
        {"egress": "allowlist", "egress_hosts": "pypi.org:443"},
        {"port": "22", "listen": "unix:/run/gateway.sock"},
        {"workspace_root": "/var/lib/orchestrator/workspaces"},
        {"db": "postgresql://gateway@db.example/gateway"},
        ON_A_CLUSTER,
        {**ON_A_CLUSTER, "storage_class": "fast", "memory_per_slice": "8g", "session_cpus": "0.5"},
        {"namespace_routes": "routes", "piper_config": "/routes/pipe.yaml"},  # gateway mirror-pipes
    ],
)
def test_settings_that_go_together_are_taken(given: dict[str, str]) -> None:
    Settings.load({variable(name): text for name, text in given.items()})


def test_a_wrong_value_is_not_reported_a_second_time_as_a_contradiction() -> None:
    assert len(refusal({"GATEWAY_SESSION_TMP": "much", "GATEWAY_SESSION_MEMORY": "1g"}).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("GATEWAY_WORKSPACE_QOUTA", "GATEWAY_WORKSPACE_QUOTA"),
        ("GATEWAY_READONLY_ROOT", "GATEWAY_READ_ONLY_ROOT"),
        ("GATEWAY_SESSION_MEM0RY", "GATEWAY_SESSION_MEMORY"),
        ("GATEWAY_PORTS", "GATEWAY_PORT"),
    ],
)
def test_a_typing_error_in_a_variables_name_stops_the_start(name: str, meant: str) -> None:
    assert refusal({name: "1g"}) == f"{name} is not a setting: use {meant}, or unset it."


@pytest.mark.parametrize(
    "name", ["GATEWAY_INTERFACE", "GATEWAY_SERVICE_HOST", "GATEWAY_PORT_80_TCP", "GATEWAYS"]
)
def test_variables_of_other_programs_do_not(name: str) -> None:
    assert Settings.load({name: "CGI/1.1"}) == Settings.load({})


def test_every_variable_that_the_product_names_is_known() -> None:
    known = {variable(setting.name) for setting in fields(Settings)} | OTHER_VARIABLES
    texts = [
        *ROOT.glob("gateway/**/*.py"),
        *ROOT.glob("docs/*.md"),
        *(path for path in ROOT.glob("docker/*") if path.is_file()),
        ROOT / "README.md",
    ]
    named = {name for path in texts for name in re.findall(r"\bGATEWAY_[A-Z_]*[A-Z]\b", path.read_text())}
    assert named <= known | {"GATEWAY_INTERFACE", "GATEWAY_WORKSPACE_QOUTA"}  # examples of what is none


@pytest.mark.parametrize("address", ["0.0.0.0", "192.0.2.1", "::"])
def test_an_address_beyond_loopback_is_not_local(address: str) -> None:
    assert not Settings.load({}, {"listen": address}).listens_locally


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1", "unix:/run/gateway.sock"])
def test_loopback_and_unix_sockets_are_local(address: str) -> None:
    assert Settings.load({}, {"listen": address}).listens_locally


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:9000"),
        ("0.0.0.0", "http://localhost:9000"),
        ("::1", "http://[::1]:9000"),
        ("unix:/run/gateway.sock", "unix:/run/gateway.sock"),
    ],
)
def test_clients_on_this_machine_know_where_the_api_is(listen: str, url: str) -> None:
    assert Settings.load({"GATEWAY_LISTEN": listen, "GATEWAY_PORT": "9000"}).api_url == url


def test_hosts_outside_cannot_be_in_the_sessions_own_subnet() -> None:
    given = {
        "GATEWAY_EGRESS": "allowlist",
        "GATEWAY_EGRESS_HOSTS": "mirror.example:443",
        "GATEWAY_EGRESS_PRIVATE_SUBNETS": "192.168.7.0/24, 10.213.0.0/16",
    }
    assert "10.213.0.0/16 overlaps --subnet 10.213.0.0/20" in refusal(given)
    assert "192.168.7.0" not in refusal(given)


def test_what_sessions_reach_outside_is_a_list_of_hosts_and_ports() -> None:
    flags = {"egress": "allowlist", "egress_hosts": "PyPI.org:443, .pythonhosted.org:443,"}
    assert Settings.load({}, flags).open_hosts == ["pypi.org:443", ".pythonhosted.org:443"]
    assert Settings.load({}).open_hosts == []


@pytest.mark.parametrize(
    ("size", "number"), [("", None), ("512m", 2**29), ("200G", 200 * 2**30), ("2t", 2**41)]
)
def test_a_workspace_quota_is_a_number_of_bytes(size: str, number: int | None) -> None:
    assert Settings.load({"GATEWAY_WORKSPACE_QUOTA": size}).workspace_quota_bytes == number


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://gateway:{PASSWORD}@db.example/gateway",
        f"postgres://gateway:{PASSWORD}@db.example:5433/gateway?sslmode=require",
        f"postgresql://db.example/gateway?user=gateway&password={PASSWORD}",
        f"postgresql+psycopg://gateway@db.example/gateway?sslpassword={PASSWORD}",
    ],
)
def test_a_database_url_never_shows_its_password(url: str, caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings.load({"GATEWAY_DB": url})
    logging.getLogger("test").error("%s %r", settings.db, settings, extra={"db": settings.db})
    shown = [str(settings.db), repr(settings.db), f"{settings.db}", repr(settings), caplog.text]
    assert settings.db.has_password
    assert not [text for text in shown if PASSWORD in text]
    assert "gateway" in str(settings.db)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://gateway:{PASSWORD}@db.example:port/gateway",
        f"postgresql://gateway:{PASSWORD}@rest@db.example/gateway",
        f"postgresql://gateway:a@{PASSWORD}/b@db.example/gateway",
        f"postgresql:/gateway:{PASSWORD}@db.example/gateway",
        f"//gateway:{PASSWORD}@db.example/gateway",
        f"mysql://gateway:{PASSWORD}@db.example/gateway",
        f"gateway:{PASSWORD}@db.example/gateway",
    ],
)
def test_a_wrong_database_url_is_refused_without_repeating_it(url: str) -> None:
    assert PASSWORD not in refusal({"GATEWAY_DB": url})
    with pytest.raises(StartRefused) as refused:
        DatabaseUrl(url)
    assert PASSWORD not in str(refused.value)


def test_a_password_on_the_command_line_is_refused_without_repeating_it() -> None:
    message = refusal(db=f"postgresql://gateway:{PASSWORD}@db.example/gateway")
    assert "GATEWAY_DB" in message
    assert PASSWORD not in message
