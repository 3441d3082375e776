"""Which keys a known_hosts file names for a host."""

import base64
import hmac

import pytest

from gateway.router.ssh.known_hosts import KnownHost

KEY, OTHER = b"\0\0\0\x0bssh-ed25519" + bytes(36), b"\0\0\0\x0bssh-ed25519" + b"\1" * 36


def line(names: str, key: bytes = KEY, marker: str = "") -> str:
    return f"{marker} {names} ssh-ed25519 {base64.b64encode(key).decode()} a comment\n".lstrip()


def hashed(name: str) -> str:
    salt = b"salt" * 5
    return "|1|{}|{}".format(
        *(base64.b64encode(part).decode() for part in (salt, hmac.digest(salt, name.encode(), "sha1")))
    )


@pytest.mark.parametrize(
    ("names", "host", "port", "is_known"),
    [
        ("10.0.0.1", "10.0.0.1", 22, True),
        ("10.0.0.1", "10.0.0.1", 2222, False),
        ("[10.0.0.1]:2222", "10.0.0.1", 2222, True),
        ("[10.0.0.1]:2222", "10.0.0.1", 22, False),
        ("[10.0.0.1]:2222", "10.0.0.2", 2222, False),
        ("[*]:2222", "10.0.0.1", 2222, True),
        ("*", "10.0.0.1", 2222, False),
        ("*", "10.0.0.1", 22, True),
        ("*.example", "gpu.example", 22, True),
        ("h?st", "host", 22, True),
        ("*,!gpu.example", "gpu.example", 22, False),
        ("other,HOST", "host", 22, True),
        (hashed("[10.0.0.1]:2222"), "10.0.0.1", 2222, True),
        (hashed("10.0.0.1"), "10.0.0.1", 2222, False),
        ("|1|broken", "10.0.0.1", 22, False),
    ],
)
def test_a_line_names_a_host_and_its_port(names: str, host: str, port: int, is_known: bool) -> None:
    assert (KEY in KnownHost.find(line(names), host, port).trusted) == is_known


def test_several_lines_name_several_keys() -> None:
    text = f"# a remark\n\n{line('h')}{line('h', OTHER)}{line('elsewhere', b'x')}h ssh-ed25519 %%%\nh\n"
    assert KnownHost.find(text, "h", 22).trusted == {KEY, OTHER}


def test_a_revoked_key_is_not_trusted_and_an_authority_is_no_host_key() -> None:
    text = line("h") + line("*", KEY, "@revoked") + line("h", OTHER, "@cert-authority")
    assert KnownHost.find(text, "h", 22).trusted == frozenset()
