"""`make up` with a database whose URL holds a password."""

import os
import stat
import subprocess
from pathlib import Path

from tests.paths import REPOSITORY
from tests.whole_gateway import free_port

PASSWORD = "s3cret-p4ss"


def test_no_password_is_printed_or_readable_by_others_or_a_directorys_name(tmp_path: Path) -> None:
    environ = os.environ | {
        "GATEWAY_RUN_DIR": str(tmp_path / "run"),
        "GATEWAY_DB": f"postgresql://gateway:{PASSWORD}@127.0.0.1:{free_port()}/gateway",
        "GATEWAY_STATE_DIR": str(tmp_path / "state"),
        "GATEWAY_PIPER_CONFIG": str(tmp_path / "sshpiper/pipe.yaml"),
        "GATEWAY_WORKSPACE_ROOT": str(tmp_path / "workspaces"),
        "GATEWAY_PORT": str(free_port()),
        "GATEWAY_SSH_PORT": str(free_port()),
        "GATEWAY_NETWORK": "gwup",
    }
    before = {path.name for path in REPOSITORY.iterdir()}
    done = subprocess.run(
        [REPOSITORY / "docker/up"], env=environ, capture_output=True, text=True, timeout=300
    )
    assert done.returncode != 0  # no server is there
    assert "database on the PostgreSQL server" in done.stdout
    assert "cannot be used" in done.stderr
    assert PASSWORD not in done.stdout + done.stderr
    settings = tmp_path / "run/settings"
    assert PASSWORD in settings.read_text()
    assert stat.S_IMODE(settings.stat().st_mode) == 0o600
    assert {path.name for path in REPOSITORY.iterdir()} == before
    assert not [path for path in tmp_path.rglob("*") if PASSWORD in path.name]
