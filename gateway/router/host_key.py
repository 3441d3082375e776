"""The router's host key: made at the first start and kept, for every client pins it."""

import os
import stat
from contextlib import suppress
from pathlib import Path

import asyncssh

from gateway.errors import StartRefused


def load_or_make(path: Path) -> asyncssh.SSHKey:
    """The public half lies beside it, for whoever tells users what to expect."""
    try:
        if not path.exists():
            _make(path)
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) or mode & 0o077:
            raise StartRefused(
                f"The host key {path} must be a file that only its owner can read: chmod 600 {path}"
            )
        key = asyncssh.import_private_key(path.read_bytes())
        public = path.with_name(f"{path.name}.pub")
        if not public.exists():
            _write(public, key.export_public_key(), 0o644)
    except OSError as error:
        raise StartRefused(f"The host key {path} cannot be read or made: {error.strerror}.") from error
    except asyncssh.KeyImportError as error:
        raise StartRefused(
            f"The host key {path} is not a private key without a passphrase: {error}."
        ) from error
    return key


def _make(path: Path) -> None:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    key = asyncssh.generate_private_key("ssh-ed25519", comment="gpu-ssh-gateway")
    _write(path, key.export_private_key(), 0o600)


def _write(path: Path, content: bytes, mode: int) -> None:
    """Whole or not at all, and never over one that is there: another router may start at the same time."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        with suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink()
