"""Users' persistent directories. Each is created once and has one uid as its owner; symlinks are refused."""

import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from gateway.domain.uids import LOWEST_UID
from gateway.domain.users import problem_with
from gateway.errors import DiskFull, WorkspaceRefused
from gateway.repositories.files import quotas
from gateway.repositories.files.workspace_root import WorkspaceRoot
from gateway.repositories.storage import is_full, translated_errors

_BASHRC = """\
# Read by every interactive shell of your sessions; it is yours to change.
[ -z "$PS1" ] && return
HISTCONTROL=ignoreboth
HISTSIZE=10000
shopt -s checkwinsize histappend
PS1='\\[\\e[1;32m\\]\\u@\\h\\[\\e[0m\\]:\\[\\e[1;34m\\]\\w\\[\\e[0m\\]\\$ '
alias ls='ls --color=auto' ll='ls -l' grep='grep --color=auto'
"""
_readable_root = partial(
    translated_errors, "The disk of the workspaces", "The workspace root cannot be read", WorkspaceRefused
)
_MEASURING_SECONDS = 1800  # for millions of files on a slow disk
_PROFILE = """\
# Read by login shells.
[ -f ~/.bashrc ] && . ~/.bashrc
"""


class HostWorkspaces:
    """`<root>/<user>/{.bashrc,projects/,data/}`, 0700. `quota` is the limit for each user, in bytes.
    `record` is the one of `WorkspaceRoot`."""

    def __init__(self, root: Path, quota: int | None = None, record: Path | None = None) -> None:
        self._root = root
        self._quota = quota
        self._directory = WorkspaceRoot(root, record)

    def ensure(self, user_id: str, uid: int) -> Path:
        """Return the user's workspace, which is created if it is missing. An existing one keeps its content.

        Raises `WorkspaceRefused` if the path is a symlink, a file or a directory of another uid: mounting it
        would give the user access to other files. Also if the workspaces' disk is not mounted. Raises
        `DiskFull`.
        """
        path = self._root / user_id
        try:
            self._directory.prepare()
            if not os.path.lexists(path):
                self._make(path, uid)
            found = os.lstat(path)
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid:
                raise WorkspaceRefused(
                    f"The path of {user_id}'s workspace is not a directory of uid {uid}; an administrator "
                    "must move it away, or make that uid its owner."
                )
            self._limit(user_id, uid)
            if stat.S_IMODE(found.st_mode) != 0o700:
                os.chmod(path, 0o700, follow_symlinks=True)
        except OSError as error:
            raise _translated(error, user_id) from error
        return path

    def owners(self) -> Mapping[str, int]:
        """Return the users who have a workspace, with the uid that owns it. Other directories, such as
        `lost+found` and those of root and of services, are not included. Raises `WorkspaceRefused`."""
        with _readable_root():
            homes = sorted(self._root.iterdir()) if self._root.is_dir() else []
            found = {home.name: _status(home) for home in homes if problem_with(home.name) is None}
        return {
            name: status.st_uid
            for name, status in found.items()
            if status and stat.S_ISDIR(status.st_mode) and status.st_uid >= LOWEST_UID
        }

    def check(self) -> Sequence[str]:
        """Return what makes workspaces less safe. Raises `WorkspaceRefused` if their disk is not mounted, or
        mounted read-only."""
        with _readable_root():
            self._directory.check()
            return self._directory.weaknesses()

    def has_quotas(self) -> bool:
        """Whether the file system enforces quotas. Raises `WorkspaceRefused`."""
        with _readable_root():
            return quotas.are_enforced(self._root)

    def used(self, user_id: str) -> int:
        """Return the disk use of the user's workspace in bytes; 0 without one. Takes up to 30 minutes."""
        path = self._root / user_id
        with _readable_root():
            if not path.is_dir():
                return 0
        low_priority = ["ionice", "--ignore", "--class", "idle", "nice", "-n19"]
        measure = ["du", "--summarize", "--one-file-system", "--block-size=1", "--", str(path)]
        try:
            done = subprocess.run(
                [*low_priority, *measure], capture_output=True, text=True, timeout=_MEASURING_SECONDS
            )
            return int(done.stdout.split()[0])  # du fails if a file vanishes meanwhile, and counts the others
        except (OSError, subprocess.TimeoutExpired, IndexError, ValueError) as error:
            raise WorkspaceRefused(f"The workspace of {user_id} cannot be measured by du.") from error

    def _limit(self, user_id: str, uid: int) -> None:
        if self._quota is None or not self.has_quotas():
            return
        try:
            quotas.limit(self._root, uid, self._quota)
        except OSError as error:
            raise WorkspaceRefused(
                f"The quota of {user_id} cannot be set ({error.strerror}): give the gateway CAP_SYS_ADMIN, "
                "or leave out --workspace-quota."
            ) from error

    def _make(self, path: Path, uid: int) -> None:
        """Create the workspace under a temporary name and rename it: a crash leaves no incomplete one."""
        for leftover in _leftovers(self._root, path.name):
            shutil.rmtree(leftover)
        draft = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=self._root))
        try:
            for directory in ("projects", "data"):
                (draft / directory).mkdir()
                (draft / directory).chmod(0o755)
            (draft / ".bashrc").write_text(_BASHRC)
            (draft / ".profile").write_text(_PROFILE)
            for entry in (*draft.iterdir(), draft):
                os.chown(entry, uid, uid)
            draft.rename(path)
        except OSError:
            shutil.rmtree(draft, ignore_errors=True)
            raise


def _status(home: Path) -> os.stat_result | None:
    with suppress(FileNotFoundError):  # an administrator has just removed it
        return home.lstat()
    return None


def _leftovers(root: Path, user_id: str) -> list[Path]:
    """The drafts of this user's workspace that a killed process has left. Their names are `.ID.` and a random
    part without a dot, so that `.john.doe.x` belongs to john.doe and not to john."""
    return [path for path in root.iterdir() if path.name.rpartition(".")[0] == f".{user_id}"]


def _translated(error: OSError, user_id: str) -> DiskFull | WorkspaceRefused:
    if is_full(error):
        return DiskFull("The disk of the workspaces is full, so no workspace was created. Free some space.")
    return WorkspaceRefused(
        f"The workspace of {user_id} cannot be created ({error.strerror}); check the workspace root."
    )
