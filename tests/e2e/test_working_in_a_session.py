"""What people do in a session goes on working where nothing but workspace and scratch can be written."""

import subprocess
from pathlib import Path
from typing import Any

from tests.e2e.conftest import Gateway


def test_files_come_and_go_by_scp(gateway: Gateway, session: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("x = 1")
    options = gateway.ssh("user123")[1:-1]
    options[options.index("-p")] = "-P"
    there = "user123@127.0.0.1:projects/model.py"
    subprocess.run(["scp", *options, tmp_path / "model.py", there], check=True, timeout=30)
    subprocess.run(["scp", *options, there, tmp_path / "back.py"], check=True, timeout=30)
    assert (tmp_path / "back.py").read_text() == "x = 1"


def test_tmux_outlives_the_connection(gateway: Gateway, session: dict[str, Any]) -> None:
    gateway.in_session("user123", "tmux new-session -d -s work 'sleep 60'")
    assert gateway.in_session("user123", "tmux list-sessions -F '#S'").split() == ["work"]


def test_packages_are_installed_into_the_home_directory(gateway: Gateway, session: dict[str, Any]) -> None:
    """The one package that the image brings along is pip itself."""
    steps = (
        "python3 -m venv env",
        "env/bin/pip --python /usr/bin/python3 install --user --break-system-packages --quiet --no-index"
        " /usr/share/python-wheels/pip-*.whl",
        "~/.local/bin/pip --version",
    )
    assert "/home/user123/.local/lib/" in gateway.in_session("user123", " && ".join(steps))
