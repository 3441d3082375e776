"""The attacks on the sessions of one server: by Docker, and by what this host shows of them."""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from gateway.doctor.attack.ground import LiveSession, record_of
from gateway.doctor.attack.probe import Targets
from gateway.doctor.attack.targets import targets
from gateway.repositories.docker.exec import Inside
from gateway.settings import Settings


class Server:
    untried: Mapping[str, str] = {}

    def __init__(self, settings: Settings, inside: Inside) -> None:
        self._settings = settings
        self._inside = inside

    def targets(self, victim: LiveSession, attacker: LiveSession) -> Targets:
        address = str(record_of(self._settings.db, victim).address)
        memory_bytes = self._inside.memory_limit(attacker["container_id"])
        return targets(self._settings, victim["ssh_user"], victim["session_id"], address, memory_bytes)

    def run(self, session: LiveSession, command: Sequence[str]) -> tuple[int, str]:
        return self._inside.run(session["container_id"], command)

    def log_size(self, session: LiveSession) -> int:
        return self._inside.log_size(session["container_id"])

    def processes(self, session: LiveSession) -> int:
        """By their control group, which they cannot leave."""
        found = 0
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(FileNotFoundError, ProcessLookupError):  # the process has ended meanwhile
                found += session["container_id"] in (process / "cgroup").read_text()
        return found

    def remove_home(self, user_id: str) -> None:
        """Only the doctor uses these user ids, so the workspace holds no one's data."""
        shutil.rmtree(self._settings.workspace_root / user_id, ignore_errors=True)

    def remains(self, user_id: str) -> str:
        return f"then remove {self._settings.workspace_root / user_id}"
