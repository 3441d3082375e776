"""What `pip install` of the project installs: a package that is complete without its checkout."""

import os
import shutil
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.whole_gateway import free_port

ROOT = Path(__file__).parents[2]
SOURCES = ("gateway", "migrations", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools writes beside the sources, and adds what an earlier build left there."""
    sources, built = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, sources / name, symlinks=True)
        else:
            shutil.copy(ROOT / name, sources / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-index", "--no-deps"]
    subprocess.run(
        [*pip, "--no-build-isolation", "--wheel-dir", built, sources], check=True, capture_output=True
    )
    [wheel] = built.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def command(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`gateway`, installed from the wheel into an environment of its own, over this one's dependencies."""
    directory = tmp_path_factory.mktemp("environment")
    venv.create(directory, with_pip=False)
    [site_packages] = directory.glob("lib/python*/site-packages")
    target = ["--python", str(directory / "bin/python")]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", *target]
    subprocess.run([*pip, "install", "--no-index", "--no-deps", wheel], check=True, capture_output=True)
    dependencies = Path(requests.__file__).parents[1]
    for found in dependencies.iterdir():
        if "gpu_ssh_gateway" not in found.name and not (site_packages / found.name).exists():
            (site_packages / found.name).symlink_to(found)
    return directory / "bin/gateway"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "DOCKER_HOST": "unix:///nonexistent",
        "GATEWAY_DB": str(tmp_path / "state/sessions.db"),
        "GATEWAY_PIPER_CONFIG": str(tmp_path / "sshpiper/pipe.yaml"),
        "GATEWAY_WORKSPACE_ROOT": str(tmp_path / "workspaces"),
        "GATEWAY_SIMULATE_GPUS": "1xA100-40GB",
        "GATEWAY_PORT": str(free_port()),
        "GATEWAY_SETTINGS": os.devnull,
    }


@pytest.fixture
def served(command: Path, environment: dict[str, str], tmp_path: Path) -> Iterator[str]:
    subprocess.run([command, "migrate"], env=environment, cwd="/", check=True)
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen([command, "serve"], env=environment, cwd="/", stderr=log)
    yield f"http://127.0.0.1:{environment['GATEWAY_PORT']}"
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=30)


def test_the_installed_package_is_not_that_of_the_checkout(command: Path) -> None:
    where = subprocess.run(
        [command.with_name("python"), "-c", "import gateway; print(gateway.__file__)"],
        cwd="/", capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert where.startswith(str(command.parents[1]))


def test_it_brings_a_database_to_the_current_schema(command: Path, environment: dict[str, str]) -> None:
    for _ in range(2):
        done = subprocess.run([command, "migrate"], env=environment, cwd="/", capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "is current" in done.stdout


def test_it_serves(served: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            assert requests.get(f"{served}/healthz", timeout=10).ok
            break
        except requests.ConnectionError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert requests.get(f"{served}/gpus", timeout=10).json()["gpus"][0]["simulated"]
