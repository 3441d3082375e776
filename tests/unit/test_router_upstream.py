"""The router's way to a session's sshd, without a client in front of it."""

import asyncio
import gc
import socket
from typing import Any

import pytest

from gateway.router.route import Upstream
from gateway.router.upstream import UpstreamConnection
from tests.fakes.pipe_parts import key_pair


@pytest.mark.parametrize("leaves_early", [True, False])
def test_a_session_that_is_not_reached_leaves_nothing_in_the_log_of_the_event_loop(
    leaves_early: bool,
) -> None:
    """Such as an exception that nobody reads, which asyncio logs when it is collected."""

    async def test(host: str, port: int) -> list[dict[str, Any]]:
        complaints: list[dict[str, Any]] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: complaints.append(context))
        known_hosts = f"[{host}]:{port} {key_pair()[1]}"
        upstream = Upstream(host, port, "user123", key_pair()[0].encode(), known_hosts.encode())
        connection = UpstreamConnection(upstream, lambda _error: None)
        opening = loop.create_task(connection.open(lambda: None))
        await asyncio.sleep(0 if leaves_early else 0.1)
        opening.cancel()
        connection.close("the client has gone")
        with pytest.raises((asyncio.CancelledError, ConnectionRefusedError)):
            await opening
        del connection, opening
        await asyncio.sleep(0)
        gc.collect()
        return complaints

    with socket.socket() as not_listening:
        not_listening.bind(("127.0.0.1", 0))
        assert asyncio.run(test(*not_listening.getsockname())) == []
