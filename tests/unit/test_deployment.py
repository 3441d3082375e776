"""The files an administrator installs: what they promise, and that their programs accept them."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gateway.settings import Settings

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
FILES = [path for path in [*sorted(DOCKER.iterdir()), ROOT / ".ci/run"] if path.is_file()]
SCRIPTS = [path for path in FILES if path.read_bytes()[:2] == b"#!"]
INSTALLED = "/opt/gpu-ssh-gateway/.venv/bin/gateway"


def compose(*overrides: str, **environment: str) -> dict[str, Any]:
    files = [argument for name in ("compose.yaml", *overrides) for argument in ("--file", str(DOCKER / name))]
    done = subprocess.run(
        ["docker", "compose", *files, "config", "--format", "json"],
        capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    services: dict[str, Any] = json.loads(done.stdout)["services"]
    return services


def mounts(service: dict[str, Any]) -> set[tuple[str, str]]:
    return {(volume["source"], volume["target"]) for volume in service["volumes"]}


def test_the_containers_have_the_names_that_the_contract_shows() -> None:
    services = compose()
    assert services["gpu-ssh-orchestrator"]["container_name"] == "gpu-ssh-orchestrator"
    assert services["sshpiper"]["container_name"] == "sshpiper"


@pytest.mark.parametrize("overrides", [(), ("compose.embedded-router.yaml", "compose.simulated-gpus.yaml")])
def test_no_service_is_privileged(overrides: tuple[str, ...]) -> None:
    for service in compose(*overrides).values():
        assert not service.get("privileged")
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["read_only"]


def test_paths_read_the_same_inside_and_outside() -> None:
    paths = mounts(compose()["gpu-ssh-orchestrator"])
    assert {path for path, _ in paths} >= {"/srv/workspaces", "/var/lib/orchestrator", "/etc/sshpiper"}
    assert all(source == target for source, target in paths)


def test_sshpiper_sees_the_directory_of_its_configuration_and_can_only_read_it() -> None:
    [volume] = compose()["sshpiper"]["volumes"]
    assert volume["source"] == volume["target"] == "/etc/sshpiper"
    assert volume["read_only"]


def test_the_gateway_is_given_the_gpus_unless_they_are_simulated() -> None:
    real = compose()["gpu-ssh-orchestrator"]
    assert real["environment"]["NVIDIA_MIG_CONFIG_DEVICES"] == "all"
    assert real["deploy"]["resources"]["reservations"]["devices"][0]["driver"] == "nvidia"
    simulated = compose("compose.simulated-gpus.yaml")["gpu-ssh-orchestrator"]
    assert not simulated.get("deploy")
    assert set(simulated["cap_add"]) == set(real["cap_add"]), "the sessions' network needs the same of both"
    assert simulated["environment"]["GATEWAY_SIMULATE_GPUS"] == "2xA100-40GB"


@pytest.mark.parametrize(
    ("service", "variable"), [("sshpiper", "SSHPIPER_IMAGE"), ("docker-proxy", "SOCKET_PROXY_IMAGE")]
)
def test_images_of_a_registry_have_a_version_and_can_be_named_by_digest(service: str, variable: str) -> None:
    name, _, version = compose("compose.socket-proxy.yaml")[service]["image"].partition(":")
    assert any(character.isdigit() for character in version)
    digest = f"{name}@sha256:{'0' * 64}"
    pinned = compose("compose.socket-proxy.yaml", **{variable: digest})
    assert pinned[service]["image"] == digest


def test_make_up_takes_sshpipers_image_from_the_compose_file() -> None:
    [line] = [line for line in (DOCKER / "up").read_text().splitlines() if line.startswith("piper_image=")]
    script = f"{line}; echo $piper_image"
    environ = {"PATH": "/usr/bin:/bin"}
    found = subprocess.check_output(["sh", "-c", script], text=True, cwd=ROOT, env=environ).strip()
    assert found == compose()["sshpiper"]["image"]


def test_the_embedded_router_takes_the_place_of_sshpiper_on_its_port() -> None:
    router = compose("compose.embedded-router.yaml", GATEWAY_SSH_PORT="2222")["sshpiper"]
    assert router["image"] == "gpu-ssh-gateway"
    assert router["command"] == [
        "gateway", "router", "--user", "gpu-ssh-router", "--listen", "0.0.0.0:2222"
    ]  # fmt: skip


@pytest.mark.may_be_skipped
@pytest.mark.parametrize("unit", ["gateway.service", "gateway-router.service"])
def test_systemd_accepts_the_unit(unit: str, tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("no systemd-analyze here")
    text = (DOCKER / unit).read_text()
    assert INSTALLED in text
    (tmp_path / unit).write_text(text.replace(INSTALLED, "/bin/true"))
    (tmp_path / "docker.service").write_text("[Service]\nExecStart=/bin/true\n")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / unit)],
        capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )  # fmt: skip
    complaints = [line for line in done.stderr.splitlines() if unit in line]
    assert done.returncode == 0, done.stderr
    assert complaints == []


@pytest.mark.may_be_skipped
@pytest.mark.parametrize(("unit", "most"), [("gateway.service", 30), ("gateway-router.service", 15)])
def test_the_unit_has_no_more_rights_than_it_needs(unit: str, most: int) -> None:
    """By systemd's own score, of which 3.0 is 30 here."""
    if not shutil.which("systemd-analyze"):
        pytest.skip("no systemd-analyze here")
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={most}", str(DOCKER / unit)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-200:]


def test_systemd_waits_longer_than_gunicorn_does() -> None:
    from gateway.server import GRACEFUL_SECONDS

    unit = (DOCKER / "gateway.service").read_text()
    [stop] = [line.partition("=")[2] for line in unit.splitlines() if line.startswith("TimeoutStopSec=")]
    assert int(stop) > GRACEFUL_SECONDS


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_the_shell_parses_the_script(script: Path) -> None:
    assert script.stat().st_mode & 0o111
    subprocess.run(["sh", "-n", script], check=True)


def test_the_lobby_listens_where_the_gateway_leads_to_and_only_this_host_reaches_it() -> None:
    services = compose("compose.lobby.yaml")
    address = services["gpu-ssh-orchestrator"]["environment"]["GATEWAY_LOBBY"]
    assert Settings.load({"GATEWAY_LOBBY": address}).lobby == ("127.0.0.1", 2223)
    assert services["lobby"]["command"][2:] == [
        f"--listen={address}",
        "--lobby-key=/etc/sshpiper/lobby_key.pub",
        "--host-key=/etc/sshpiper/ssh_host_ed25519_key",
    ]
    assert "cap_add" not in services["lobby"]
