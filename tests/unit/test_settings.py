import pytest

from gateway.errors import StartRefused
from gateway.settings import Settings


def refusal(environ: dict[str, str] | None = None, **flags: str | bool) -> str:
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


def test_a_flag_goes_before_the_environment_and_the_environment_before_the_default() -> None:
    environ = {"GATEWAY_PORT": "9000", "GATEWAY_DB": "/x/y.db"}
    settings = Settings.load(environ, {"port": "9001", "db": None})
    assert (settings.port, str(settings.db)) == (9001, "/x/y.db")


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"port": "0"}, "--port"),
        ({"port": "http"}, "--port (GATEWAY_PORT): 'http' is not a whole number"),
        ({"db": "sessions.db"}, "--db"),
        ({"ssh_host": "a b"}, "--ssh-host"),
        ({"subnet": "10.0.0.1/24"}, "--subnet"),
        ({"subnet": "10.0.0.0/30"}, "--subnet"),
        ({"session_memory": "much"}, "--session-memory"),
        ({"session_cpus": "-1"}, "--session-cpus"),
        ({"threads": "0"}, "--threads"),
        ({"mig_policy": "frozen"}, "--mig-policy (GATEWAY_MIG_POLICY): 'frozen' is none of dynamic"),
        ({"listen": "localhost"}, "--listen"),
        ({"workspace_quota": "much"}, "--workspace-quota"),
        ({"egress": "all"}, "--egress (GATEWAY_EGRESS): 'all' is neither of none and allowlist"),
        ({"egress": "allowlist"}, "--egress"),
        ({"egress_hosts": "pypi.org:443"}, "--egress-hosts"),
        ({"egress": "allowlist", "egress_hosts": "pypi.org"}, "--egress-hosts"),
        ({"egress": "allowlist", "egress_hosts": "pypi.org:443,a b:1"}, "--egress-hosts"),
        ({"egress": "allowlist", "egress_hosts": "pypi.org:70000"}, "--egress-hosts"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(flags: dict[str, str], named: str) -> None:
    assert named in refusal({}, **flags)


def test_a_wrong_variable_is_refused_like_a_flag() -> None:
    assert "GATEWAY_SSH_PORT" in refusal({"GATEWAY_SSH_PORT": "70000"})


@pytest.mark.parametrize("address", ["0.0.0.0", "192.0.2.1", "::"])
def test_an_address_beyond_loopback_is_not_local(address: str) -> None:
    assert not Settings.load({}, {"listen": address}).listens_locally


def test_the_old_way_to_listen_without_tokens_names_the_new_one() -> None:
    assert "gateway token create" in refusal({"GATEWAY_INSECURE_LISTEN": "1"})


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1", "unix:/run/gateway.sock"])
def test_loopback_and_unix_sockets_are_local(address: str) -> None:
    assert Settings.load({}, {"listen": address}).listens_locally


def test_what_sessions_reach_outside_is_a_list_of_hosts_and_ports() -> None:
    flags = {"egress": "allowlist", "egress_hosts": "PyPI.org:443, .pythonhosted.org:443,"}
    assert Settings.load({}, flags).open_hosts == ["pypi.org:443", ".pythonhosted.org:443"]
    assert Settings.load({}).open_hosts == []


@pytest.mark.parametrize(
    ("size", "number"), [("", None), ("512m", 2**29), ("200g", 200 * 2**30), ("2t", 2**41)]
)
def test_a_workspace_quota_is_a_number_of_bytes(size: str, number: int | None) -> None:
    assert Settings.load({}, {"workspace_quota": size}).workspace_quota_bytes == number
