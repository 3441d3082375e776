"""What a client without a login can make the embedded router do: little, and never unseen."""

import asyncio
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from gateway.logs import LINES_AT_ONCE
from gateway.router.limits import MAX_UNAUTHENTICATED
from gateway.router.ssh import keys
from gateway.router.ssh.algorithms import Offer
from gateway.router.ssh.authentication import KeyRefused
from gateway.router.ssh.packets import LARGEST_BEFORE_LOGIN
from gateway.router.ssh.wire import (
    SERVICE_REQUEST,
    USERAUTH_REQUEST,
    SshError,
    plain_packet,
    string,
    uint32,
)
from tests.fakes.raw_ssh import RawClient
from tests.routes.ground import Client, Keys, Router, make_router, run, speaks_ssh, until
from tests.routes.test_refusing import refused


@pytest.fixture
def router(tmp_path: Path) -> Iterator[Router]:
    directory = tmp_path / "router"
    directory.mkdir()
    router = make_router("embedded", directory)
    router.start()
    yield router
    router.stop()


EARLY = "the client left before it sent its version"


def lines(router: Router, *parts: str) -> list[str]:
    """The log's lines with these parts, but for the probe that waits for the router's start."""
    logged = router.log.read_text().splitlines()
    logged = [line for line in logged if EARLY in parts or EARLY not in line]
    return [line for line in logged if all(part in line for part in parts)]


def connected(router: Router, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", router.port), timeout=10, source_address=(source, 0))


def exchange(router: Router, data: bytes) -> bytes:
    """What the router answers until it closes."""
    with connected(router) as connection:
        connection.sendall(data)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def with_client(router: Router, work: Any) -> Any:
    async def whole() -> Any:
        client = RawClient(router.public_key)
        await client.connect("127.0.0.1", router.port)
        try:
            return await work(client)
        finally:
            client.transport.close(SshError("the test is done"))

    result: Coroutine[Any, Any, Any] = whole()
    return asyncio.run(result)


# What it may ask for.


@pytest.mark.parametrize(
    "option",
    [
        "KexAlgorithms=diffie-hellman-group14-sha256",
        "KexAlgorithms=diffie-hellman-group-exchange-sha256",
        "KexAlgorithms=diffie-hellman-group1-sha1",
        "Ciphers=aes128-cbc",
        "Ciphers=3des-cbc",
        "HostKeyAlgorithms=ssh-rsa",
    ],
)
def test_weak_and_expensive_algorithms_are_not_offered(client: Client, option: str) -> None:
    assert b"no matching" in refused(client, "-o", "LogLevel=INFO", "-o", option).stderr
    [line] = until_lines(client.router, "login refused")
    assert "no common" in line
    assert "address=127.0.0.1" in line


def until_lines(router: Router, *parts: str) -> list[str]:
    until(lambda: lines(router, *parts))
    return lines(router, *parts)


@pytest.fixture
def rsa_user(client: Client, tmp_path: Path) -> Client:
    file = tmp_path / "rsa"
    run("ssh-keygen", "-q", "-t", "rsa", "-N", "", "-f", str(file))
    user_keys = Keys(file, file.with_suffix(".pub").read_text().strip())
    pipe = client.sshd.pipe(client.username, [user_keys.public])
    client.router.pipes.replace(lambda: [pipe])
    return Client(client.router, client.sshd, tmp_path, user_keys)


@pytest.mark.parametrize("algorithm", ["rsa-sha2-256", "rsa-sha2-512"])
def test_an_rsa_key_signs_with_sha2(rsa_user: Client, algorithm: str) -> None:
    assert rsa_user.output("-o", f"PubkeyAcceptedAlgorithms={algorithm}", "--", "echo there") == "there\n"


class _Sha1Key:
    """An RSA key that signs as the first clients did."""

    algorithms: tuple[str, ...] = ("ssh-rsa",)

    def __init__(self, file: Path) -> None:
        self._key = load_ssh_private_key(file.read_bytes(), None)
        self.blob = keys.load_private_key(file.read_bytes()).blob

    def sign(self, algorithm: str, data: bytes) -> bytes:
        assert isinstance(self._key, rsa.RSAPrivateKey)
        return string(algorithm) + string(self._key.sign(data, padding.PKCS1v15(), hashes.SHA1()))


def test_a_signature_with_sha1_is_refused_whoever_made_it(rsa_user: Client) -> None:
    async def work(client: RawClient) -> None:
        await client.log_in(rsa_user.username, _Sha1Key(rsa_user.keys.private))

    with pytest.raises(KeyRefused):
        with_client(rsa_user.router, work)
    assert "ssh-rsa is not accepted" in until_lines(rsa_user.router, "login refused")[0]


def test_a_second_key_exchange_before_the_login_ends_the_connection(router: Router) -> None:
    async def work(client: RawClient) -> str:
        await client.secure()
        client.transport.exchange.start()
        client.transport.flush()
        return await client.over()

    assert "a second key exchange before the login" in with_client(router, work)


def test_packets_before_the_login_are_small(router: Router) -> None:
    offer = plain_packet(Offer.make("client", ("ssh-ed25519",)).packet)
    too_large = uint32(LARGEST_BEFORE_LOGIN + 4)
    assert b"outside the limits" in exchange(router, b"SSH-2.0-test\r\n" + offer + too_large)


def test_packets_before_the_login_are_few(router: Router) -> None:
    async def work(client: RawClient) -> str:
        await client.secure()
        client.transport.log_in()  # it would end the connection itself
        for _ in range(300):
            client.send(bytes((SERVICE_REQUEST,)) + string("ssh-userauth"))
        return await client.over()

    assert "not allowed before the login" in with_client(router, work)


@pytest.mark.parametrize("letter", ["x", "\x01", "\U0001f511"])
def test_a_user_s_name_of_any_length_stops_nothing(router: Router, letter: str) -> None:
    name = string(letter * (30_000 // len(letter.encode())))

    async def work(client: RawClient) -> str:
        await client.secure()
        client.send(bytes((SERVICE_REQUEST,)) + string("ssh-userauth"))
        client.send(bytes((USERAUTH_REQUEST,)) + name + string("ssh-connection") + string("none"))
        return await client.over()

    assert "the user's name is too long" in with_client(router, work)
    [line] = until_lines(router, "login refused")
    assert len(line) < 1000
    assert speaks_ssh("127.0.0.1", router.port)


def test_the_connection_protocol_is_refused_before_the_login(router: Router) -> None:
    async def work(client: RawClient) -> str:
        await client.secure()
        client.send(bytes((90,)) + string("session") + uint32(0) + uint32(1 << 20) + uint32(32768))
        return await client.over()

    assert "not allowed before the login" in with_client(router, work)


# How much of it there may be.


def test_idle_connections_keep_nobody_out(client: Client) -> None:
    with ExitStack() as idle:
        for number in range(MAX_UNAUTHENTICATED):
            idle.enter_context(connected(client.router, f"127.0.0.{2 + number % 2}"))
        for number in range(10):
            assert client.output("-o", "ConnectionAttempts=1", "--", f"echo {number}") == f"{number}\n"
    assert "too many connections have not logged in" in until_lines(client.router, "login refused")[0]


def test_a_flood_of_logins_that_fail_blocks_its_address_and_says_why(client: Client) -> None:
    def refused_after_attempts() -> object:
        for _ in range(20):
            with connected(client.router, "127.0.0.9") as connection:
                connection.sendall(b"SSH-2.0-test\r\n" + plain_packet(b"\x14" + bytes(16)))
                connection.recv(99999)
        return lines(client.router, "connection refused", "address=127.0.0.9")

    until(refused_after_attempts)
    done = client.run("-b", "127.0.0.9", "--", "true")
    assert done.returncode == 255
    assert b"too many failed logins from your address; try again in" in done.stderr
    assert client.output("echo there") == "there\n"


# What is logged of it.


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: gw\r\n\r\n", "does not speak SSH"),
        (b"\x16\x03\x01\x02\x00\x01\x00", "does not speak SSH"),
        (b"SSH-1.5-old\r\n", "the version of SSH is not supported"),
        (b"SSH-2.0-test\r\n" + plain_packet(b"\x14" + bytes(16)), "shorter than its fields"),
        (b"SSH-2.0-test\r\n" + bytes(64), "a packet is damaged"),
        (b"SSH-2.0-test\r\n" + plain_packet(b"\x15"), "belongs to no key exchange"),
    ],
)
def test_a_client_that_fails_before_it_names_a_user_leaves_one_line(
    router: Router, sent: bytes, reason: str
) -> None:
    exchange(router, sent)
    [line] = until_lines(router, "login refused")
    assert reason in line
    assert "address=127.0.0.1" in line
    assert "user_id" not in line


def test_a_client_that_leaves_early_leaves_a_line_too(router: Router) -> None:
    before = len(until_lines(router, EARLY))
    connected(router).close()
    until(lambda: len(lines(router, EARLY)) > before)


def test_a_flood_leaves_no_more_than_a_line_a_second_of_its_kind(router: Router) -> None:
    began = time.monotonic()
    for number in range(25):
        with connected(router) as connection:
            connection.sendall(b"GET /%d HTTP/1.1\r\n" % number)
    time.sleep(1.5)
    exchange(router, b"GET /last HTTP/1.1\r\n")
    until(lambda: lines(router, "does not speak SSH", "suppressed="))
    written = lines(router, "does not speak SSH")
    assert len(written) <= LINES_AT_ONCE + 1 + time.monotonic() - began
    suppressed = sum(int(found[1]) for line in written if (found := re.search(r"suppressed=(\d+)", line)))
    assert len(written) + suppressed == 26


def test_what_a_client_sent_cannot_forge_a_line(router: Router) -> None:
    exchange(router, b'GET /" message="login accepted" user_id=root\x1b[2J\r\n')
    [line] = until_lines(router, "login refused")
    assert "\x1b" not in line
    assert " user_id=root" not in re.sub(r'"(\\.|[^"\\])*"', "", line)


# Each is there for clients that have nothing better: see docs/router.md.
FOR_OLD_CLIENTS = {
    *("curve25519-sha256", "curve25519-sha256@libssh.org"),
    *("ecdh-sha2-nistp256", "ecdh-sha2-nistp384", "ecdh-sha2-nistp521", "ecdsa-sha2-nistp256"),
    *("hmac-sha2-256", "hmac-sha2-512"),
}


def test_an_audit_finds_nothing_but_what_old_clients_need(router: Router) -> None:
    audit = Path(sys.executable).with_name("ssh-audit")
    command = [str(audit), "--json", "--skip-rate-test", "--port", str(router.port), "127.0.0.1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    found = json.loads(done.stdout)
    algorithms = [each for kind in ("kex", "key", "enc", "mac") for each in found[kind]]
    complaints = {each["algorithm"] for each in algorithms if {"fail", "warn"} & each["notes"].keys()}
    assert complaints == FOR_OLD_CLIENTS
    assert "mlkem768x25519-sha256" in [each["algorithm"] for each in algorithms]
