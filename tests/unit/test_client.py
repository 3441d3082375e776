"""The command line's client, before servers and addresses that are not those of a gateway."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from gateway.cli.waiting import wait_for
from gateway.client import Client, Refused, read_token
from gateway.errors import GatewayError, Unavailable

TOKEN = "gsg_" + "x" * 43


@contextmanager
def answering(*responses: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """The address of a server with these responses, one for each connection, and what it is asked."""
    asked: list[bytes] = []

    def serve() -> None:
        for response in responses:
            with suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    asked.append(connection.recv(65536))
                    connection.sendall(response)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", asked
    thread.join()


def response(status: str, body: bytes = b"", *headers: bytes) -> bytes:
    length = b"Content-Length: %d" % len(body)
    return b"\r\n".join([b"HTTP/1.1 " + status.encode(), length, *headers, b"", body])


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        response("200 OK", b"<html>"),
        response("200 OK", b"\xff\xfe\x00"),
        response("200 OK", b"[]"),
        response("200 OK", b"{}"),
        response("200 OK"),
        response("400 Bad Request", b'{"detail": null}'),
    ],
)
def test_what_no_gateway_answers_is_an_error_that_waiting_does_not_cure(answer: bytes) -> None:
    with answering(answer) as (url, _), pytest.raises(GatewayError, match="is no gateway") as raised:
        Client(url).list("/sessions", "sessions")
    assert not isinstance(raised.value, Unavailable)
    assert url in str(raised.value)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        response("200 OK", b'{"sessions": []}')[:-5],  # the connection ends too early
        response("502 Bad Gateway", b"<html>"),
        response("503 Service Unavailable", b"<html>"),
        response("504 Gateway Timeout"),
    ],
)
def test_a_gateway_that_does_not_answer_may_do_so_later(answer: bytes) -> None:
    with answering(answer) as (url, _), pytest.raises(Unavailable) as raised:
        Client(url).list("/sessions", "sessions")
    assert url in str(raised.value)


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Again", "308 Moved"])
def test_a_redirect_is_named_and_not_followed(method: str, status: str) -> None:
    """A POST would become a GET, and the token would reach another server."""
    moved = response(status, b"", b"Location: https://gw.example.org/gpu/sessions")
    with answering(moved) as (url, asked), pytest.raises(GatewayError) as raised:
        Client(url, TOKEN).ask(method, "/sessions")
    assert f"{url} sends its clients to https://gw.example.org/gpu: set --url" in str(raised.value)
    assert len(asked) == 1


@pytest.mark.parametrize(
    "url",
    [
        "foo",
        "localhost:8080",
        "http://",
        "http://localhost:port",
        "http://localhost:99999",
        "http://[::1",
        "http://a b/",
        "http://user:secret@gw",
        "http://gw/?a=b",
        "http://gw\n",
        "ftp://gw",
        "file:///etc/passwd",
        "unix:",
    ],
)
def test_an_address_that_no_gateway_has_is_refused(url: str) -> None:
    with pytest.raises(GatewayError, match="is not the address of a gateway"):
        Client(url)


@pytest.mark.parametrize(
    "url", ["http://localhost", "https://gw.example.org/gpu/", "http://[::1]:8080", "unix:/run/a b.sock"]
)
def test_addresses_of_gateways_are_accepted(url: str) -> None:
    Client(url)


@pytest.mark.parametrize("token", ["gsg_a\nb", "gsg_한글", "a b"])
def test_what_is_no_token_is_named_and_not_shown(
    token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text(token)
    with pytest.raises(GatewayError, match="--token-file") as from_file:
        read_token(tmp_path / "token")
    monkeypatch.setenv("GATEWAY_TOKEN", token)
    with pytest.raises(GatewayError, match="GATEWAY_TOKEN is not a token") as from_variable:
        read_token(None)
    assert token not in f"{from_file.value} {from_variable.value}"


def test_who_waits_in_line_goes_on_waiting_while_the_gateway_is_not_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.cli.waiting.POLL_SECONDS", 0)
    answers = [
        response("503 Service Unavailable", b'{"detail": "The session database does not answer."}'),
        response("502 Bad Gateway", b"<html>"),
        response("200 OK", b'{"session_id": "1", "user_id": "ann", "status": "active"}'),
    ]
    request = {"session_id": "1", "user_id": "ann", "status": "pending"}
    with answering(*answers) as (url, _):
        assert wait_for(Client(url), request)["status"] == "active"


def test_a_wait_that_is_refused_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.cli.waiting.POLL_SECONDS", 0)
    request = {"session_id": "1", "user_id": "ann", "status": "pending"}
    gone = response("410 Gone", b'{"detail": "The session has ended.", "reason": "failed"}')
    with answering(gone) as (url, _), pytest.raises(Refused, match="has ended"):
        wait_for(Client(url), request)
