"""The ground of the route suite: one real sshd, a router in front of it and the stock clients.

With ROUTE_HELD=0.5 each login of the stock clients waits in line for half a second first.

The embedded router always runs; SSHPiper does where SSHPIPERD and SSHPIPER_YAML name its daemon and
its yaml plugin (of one release).
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.routes.ground import USER, Client, Keys, Router, Sshd, make_router, run, sshd_container


def _routers() -> list[str]:
    both = os.environ.get("SSHPIPERD") and os.environ.get("SSHPIPER_YAML")
    return ["embedded", "sshpiper"] if both else ["embedded"]


def pytest_report_header() -> str:
    why = "" if len(_routers()) > 1 else " (SSHPiper too where SSHPIPERD and SSHPIPER_YAML name its binaries)"
    return f"route suite runs on: {', '.join(_routers())}{why}"


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys.make(tmp_path_factory.mktemp("keys") / "id_ed25519")


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory, keys: Keys) -> Iterator[Sshd]:
    users = [USER, *(f"user{number}" for number in range(5))]
    with sshd_container(tmp_path_factory.mktemp("sshd"), users, [keys.public]) as found:
        yield found


@pytest.fixture(scope="module", params=_routers())
def router(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    router = make_router(request.param, tmp_path_factory.mktemp(request.param))
    router.start()
    yield router
    router.stop()


@pytest.fixture
def client(router: Router, sshd: Sshd, keys: Keys, tmp_path: Path) -> Client:
    """A user whose pipe is there."""
    pipe = sshd.pipe(USER, [keys.public])
    router.pipes.replace(lambda: [pipe])
    return Client(router, sshd, tmp_path, keys, held_seconds=float(os.environ.get("ROUTE_HELD", "0")))


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory whose name leaves room in a socket's name."""
    directory = Path(run("mktemp", "--directory", "/tmp/rXXXXXX"))
    yield directory
    shutil.rmtree(directory)
