"""Signatures by keys that are damaged: a hand-written pipe may name anything as a key."""

import pytest

from gateway.router.ssh import keys
from gateway.router.ssh.wire import mpint, string

_NEGATIVE = string(b"\xff" * 300)
_MODULUS = mpint(1 << 2047 | 1)


@pytest.mark.parametrize(
    ("algorithm", "rest_of_key"),
    [
        ("ssh-ed25519", b""),
        ("ssh-ed25519", string("short")),
        ("ecdsa-sha2-nistp256", string("nistp999") + string(b"\4" + bytes(64))),
        ("ecdsa-sha2-nistp256", string("nistp256") + string(b"\4" + bytes(64))),
        ("rsa-sha2-512", mpint(65537) + _NEGATIVE),
        ("rsa-sha2-512", _NEGATIVE + _MODULUS),
        ("rsa-sha2-512", mpint(0) + _MODULUS),
        ("sk-ssh-ed25519@openssh.com", string(bytes(32))),
    ],
)
def test_a_damaged_key_signs_nothing(algorithm: str, rest_of_key: bytes) -> None:
    blob = string(keys.key_kind(algorithm)) + rest_of_key
    for signature in (b"", bytes(64), mpint(1) + mpint(1), _NEGATIVE + mpint(1)):
        assert not keys.verify(algorithm, blob, string(algorithm) + string(signature), b"data")
