"""The router's host keys: made at the first start and kept, for every client pins one of them."""

import errno
import os
import stat
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.errors import StartRefused
from gateway.router.ssh.algorithms import SIGNATURES
from gateway.router.ssh.keys import PrivateKey, kind_of, load_private_key

_Made = Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

_COMMENT = "gpu-ssh-gateway"
_RSA_BITS = 3072
_MAKERS: Mapping[str, Callable[[], _Made]] = {
    "ed25519": Ed25519PrivateKey.generate,
    "ecdsa": lambda: ec.generate_private_key(ec.SECP256R1()),
    "rsa": lambda: rsa.generate_private_key(65537, _RSA_BITS),
}


def defaults(directory: Path) -> list[Path]:
    """One key of each kind, named as sshd names its own. Old clients know only some of the kinds."""
    return [directory / f"ssh_host_{kind}_key" for kind in _MAKERS]


def lobby_default(directory: Path) -> Path:
    """The key that the pipes into the lobby pin. With another beside it, SSHPiper would ask for the other."""
    return directory / "ssh_host_ed25519_key"


def load_all(paths: Iterable[Path]) -> dict[str, PrivateKey]:
    """The keys by the algorithms that they sign with, in the order in which they are offered.

    A key that is missing is made, of the kind that its name says, else ed25519. Its public half lies
    beside it. Raises StartRefused for one that cannot be used.
    """
    keys = [_load_or_make(path) for path in paths]
    by_name = {algorithm: key for key in reversed(keys) for algorithm in key.algorithms}
    return {name: by_name[name] for name in SIGNATURES if name in by_name}


def _load_or_make(path: Path) -> PrivateKey:
    try:
        if not path.exists():
            _make(path)
        if not _is_private(path.stat()):
            raise StartRefused(
                f"The host key {path} must be a file that only its owner can read: chmod 600 {path}"
            )
        key = load_private_key(path.read_bytes())
        _write_public(path, key)
    except OSError as error:
        raise StartRefused(f"The host key {path} cannot be read or made: {error.strerror}.") from error
    except ValueError as error:
        raise StartRefused(
            f"The host key {path} is not a private key without a passphrase: {error}."
        ) from error
    return key


def _is_private(status: os.stat_result) -> bool:
    """A volume of Kubernetes belongs to root, and its pod reads it as the file's group."""
    of_others = 0o077 if status.st_uid == os.geteuid() else 0o037
    return stat.S_ISREG(status.st_mode) and not status.st_mode & of_others


def _make(path: Path) -> None:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    kind = next((kind for kind in _MAKERS if f"_{kind}" in path.name), "ed25519")
    key = _MAKERS[kind]()
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    _write(path, text, 0o600)


def _write_public(path: Path, key: PrivateKey) -> None:
    """Beside the private key, for administrators and for the gateway, which shows it to users."""
    public = path.with_name(f"{path.name}.pub")
    text = f"{kind_of(key.blob)} {b64encode(key.blob).decode()} {_COMMENT}\n"
    if not public.exists():
        try:
            _write(public, text.encode(), 0o644)
        except OSError as error:  # the router may only read here
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise


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
