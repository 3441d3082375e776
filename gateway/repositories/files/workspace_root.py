"""The directory of all workspaces. It is closed to other accounts, and a marker file identifies it."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from gateway.errors import WorkspaceRefused
from gateway.repositories import accounts

MARKER = ".gpu-ssh-gateway"
_MARKER_TEXT = """\
The GPU SSH Gateway keeps its users' workspaces in this directory. Without this file it opens no session,
because the disk of the workspaces is then not mounted, and users would find an empty home directory.
"""
_MOUNT_FLAGS = {os.ST_NOSUID: "nosuid", os.ST_NODEV: "nodev"}


class WorkspaceRoot:
    """`record` is a file outside of the root. It exists if the marker was created once. With None there is no
    marker. Methods raise `OSError` too.
    """

    def __init__(self, path: Path, record: Path | None) -> None:
        self._path = path
        self._marker = path / MARKER
        self._record = record

    def prepare(self) -> None:
        """Create the root and its marker once, and close the root to other accounts."""
        self.check()
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._record is not None and not self._record.exists():
            if not self._marker.exists():
                self._marker.write_text(_MARKER_TEXT)
            self._record.touch()
        if _is_open(self._path) and not self._has_homes_of_accounts():
            self._path.chmod(0o700)

    def check(self) -> None:
        """Raises `WorkspaceRefused` if the marker was created once and is missing now, or if nothing can be
        written."""
        if self._record is not None and self._record.exists() and not self._marker.exists():
            raise WorkspaceRefused(
                "The marker file of the workspace root is missing, so its disk is probably not mounted. "
                "No workspace was created. Mount the disk; if the workspaces are on a new disk, put the "
                f"file {MARKER} there."
            )
        if self._path.is_dir() and os.statvfs(self._path).f_flag & os.ST_RDONLY:
            raise WorkspaceRefused(
                "The disk of the workspaces is mounted read-only, as the kernel does after an error of a "
                "disk: see dmesg, and remount it."
            )

    def weaknesses(self) -> Sequence[str]:
        """Return what makes workspaces less safe on this host, each as one clause."""
        if not self._path.is_dir():
            return []
        flags = os.statvfs(self._path).f_flag
        missing = ",".join(name for flag, name in _MOUNT_FLAGS.items() if not flags & flag)
        found = [f"mounted without {missing}"] if missing else []
        if _is_open(self._path):
            found.append("other accounts can enter the workspace root (chmod 700 closes it)")
        return found

    def _has_homes_of_accounts(self) -> bool:
        """Whether the root also has home directories of the host's own accounts, like /home."""
        owners = {entry.lstat().st_uid for entry in self._path.iterdir()} - {0}
        return any(accounts.name_of(uid) for uid in owners)


def _is_open(path: Path) -> bool:
    return bool(stat.S_IMODE(path.stat().st_mode) & 0o077)
