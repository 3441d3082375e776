"""Gateway and router with the capabilities that their systemd units leave them, and no way to get others."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import own
from tests.paths import BIN, REPOSITORY
from tests.whole_gateway import Gateway, eventually, take_away

USER = own.user("user123")


def bounded(unit: str) -> list[str]:
    """A command's rights by the unit: UMask, CapabilityBoundingSet, NoNewPrivileges."""
    text = (REPOSITORY / "docker" / unit).read_text()
    assert re.search(r"^NoNewPrivileges=yes$", text, re.M)
    [names] = re.findall(r"^CapabilityBoundingSet=(.*)$", text, re.M)
    kept = ",".join("+" + name.removeprefix("CAP_").lower() for name in names.split())
    [umask] = re.findall(r"^UMask=(.*)$", text, re.M)
    with_umask = ["sh", "-c", f'umask {umask}; exec "$@"', "sh"]
    return [*with_umask, "setpriv", "--no-new-privs", "--inh-caps=-all", f"--bounding-set=-all,{kept}"]


@pytest.fixture
def unprivileged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    gateway = Gateway(tmp_path_factory.mktemp("unprivileged"))
    assert gateway.run("migrate").returncode == 0
    gateway.start("router", *bounded("gateway-router.service"), BIN / "gateway", "router")
    gateway.start("serve", *bounded("gateway.service"), BIN / "gateway", "serve")
    gateway.until_ready()
    yield gateway
    take_away(gateway)


def test_the_files_of_the_gateway_are_its_own(unprivileged: Gateway) -> None:
    state = [unprivileged.directory, *unprivileged.directory.rglob("*")]
    workspaces = unprivileged.directory / "workspaces"
    files = [path for path in state if path.is_file() and not path.is_relative_to(workspaces)]
    public = {path.name for path in files if path.stat().st_mode & 0o077}
    assert public <= {"router.log", "serve.log", *(path.name for path in files if path.suffix == ".pub")}, (
        public
    )


def test_they_open_a_session_let_its_user_in_and_take_it_back(unprivileged: Gateway) -> None:
    status = Path(f"/proc/{unprivileged.processes['serve'].pid}/status").read_text()
    [held] = re.findall(r"^CapEff:\s+(\w+)$", status, re.M)
    assert int(held, 16).bit_count() == len(bounded("gateway.service")[-1].split(",")) - 1
    session = unprivileged.create(USER, mig_profile="3g.20gb")
    assert unprivileged.in_session(USER, "touch data/mine && stat -c %U data/mine").strip() == USER
    assert unprivileged.delete(session["session_id"]).status_code == 204
    eventually(lambda: unprivileged.leftovers(session["session_id"]) == [])
