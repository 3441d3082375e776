"""The settings file: variables for commands whose environment has none."""

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.cli import settings_file
from gateway.errors import StartRefused
from tests import own

BIN = Path(sys.executable).parent


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "settings"
    path.write_text(
        "# Made by a test.\nGATEWAY_PORT='9000'\nGATEWAY_SSH_HOST=ssh.gw\nDOCKER_HOST='unix:///x'\n"
        "GATEWAY_DB='postgresql://gateway:a$b#c@db.example/gateway'\n"
    )
    return path


def applied(path: Path, **environ: str) -> dict[str, str]:
    variables = {"GATEWAY_SETTINGS": str(path), **environ}
    settings_file.apply(variables, "serve", needs_settings=True)
    return variables


def test_the_file_fills_what_the_environment_lacks(file: Path) -> None:
    variables = applied(file, GATEWAY_SSH_HOST="other.gw")
    assert variables["GATEWAY_PORT"] == "9000"
    assert variables["GATEWAY_SSH_HOST"] == "other.gw"
    assert variables["DOCKER_HOST"] == "unix:///x"
    assert variables["GATEWAY_DB"] == "postgresql://gateway:a$b#c@db.example/gateway"


def test_a_variable_that_is_set_to_nothing_is_not_filled(file: Path) -> None:
    assert applied(file, GATEWAY_PORT="")["GATEWAY_PORT"] == ""


def test_a_machine_without_settings_file_needs_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings_file, "DEFAULT", tmp_path / "none")
    variables = {"GATEWAY_PORT": "9000"}
    settings_file.apply(variables, "serve", needs_settings=True)
    assert variables == {"GATEWAY_PORT": "9000"}


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(StartRefused, match="GATEWAY_SETTINGS: there is no file"):
        applied(tmp_path / "none")


def test_a_file_that_is_no_text_is_refused_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "settings").write_bytes(b"\xff\xfe")
    with pytest.raises(StartRefused, match="cannot be read"):
        applied(tmp_path / "settings")


@pytest.mark.parametrize(
    "line", ["GATEWAY_WORKSPACE_QUOTA 200g", "GATEWAY_PORT", "=5", "GATEWAY_DB='secret", "A=a\0b"]
)
def test_a_line_that_sets_nothing_is_refused_by_its_number(tmp_path: Path, line: str) -> None:
    """It would be a limit that does not hold."""
    (tmp_path / "settings").write_text(f"# one\nGATEWAY_PORT=9000\n\n{line}\nGATEWAY_SSH_HOST=ssh.gw\n")
    with pytest.raises(StartRefused, match="Line 4 of the settings file") as refused:
        applied(tmp_path / "settings")
    assert "secret" not in str(refused.value)


def test_comments_are_those_of_systemd(tmp_path: Path) -> None:
    (tmp_path / "settings").write_text("; GATEWAY_PORT 1\n  # GATEWAY_PORT 2\n\nexport GATEWAY_PORT=9000\n")
    assert applied(tmp_path / "settings")["GATEWAY_PORT"] == "9000"


def test_another_account_is_told_to_use_sudo_where_settings_are_needed(file: Path) -> None:
    if os.geteuid() or "FAKEROOTKEY" in os.environ:
        pytest.skip("only root can become another account")
    file.chmod(0o600)
    for parent in (file.parent, *file.parents[1:3]):
        parent.chmod(0o755)
    code = (
        "import os, sys; from gateway.cli import settings_file; os.setuid(int(sys.argv[1]))\n"
        "settings_file.apply(os.environ, 'gpus', needs_settings=False)\n"
        "settings_file.apply(os.environ, 'doctor', needs_settings=True)"
    )
    nobody = str(pwd.getpwnam("nobody").pw_uid)
    done = subprocess.run(
        [sys.executable, "-c", code, nobody],
        env=os.environ | {"GATEWAY_SETTINGS": str(file)}, capture_output=True, text=True,
    )  # fmt: skip
    assert "Only root can read the gateway's settings" in done.stderr
    assert "sudo gateway doctor" in done.stderr


def test_every_command_finds_its_settings_there(file: Path, tmp_path: Path) -> None:
    file.write_text(
        f"GATEWAY_DB='{tmp_path}/state/sessions.db'\nGATEWAY_WORKSPACE_ROOT='{tmp_path}/homes'\n"
        f"GATEWAY_NETWORK={own.name('file')}\n"  # a gateway that serves on this machine has the default one
    )
    environ = {"PATH": os.environ["PATH"], "GATEWAY_SETTINGS": str(file)}
    done = subprocess.run([BIN / "gateway", "migrate"], env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "state/sessions.db").exists()


def test_a_deleted_directory_is_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    script = 'cd "$1" && rmdir "$1" && exec "$2" serve'
    done = subprocess.run(
        ["sh", "-c", script, "sh", tmp_path / "gone", BIN / "gateway"],
        env={"PATH": os.environ["PATH"], "GATEWAY_SETTINGS": os.devnull}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert "current directory was deleted" in line
