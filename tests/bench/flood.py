"""Handshakes that never log in: `python -m tests.bench.flood PORT HOST_KEY PER_SECOND SECONDS`.

It prints how many it finished. Each comes from its own address of 127.0.0.0/8, as from many hosts.
"""

import asyncio
import sys
from contextlib import suppress

from gateway.router.ssh.wire import SshError
from tests.fakes.raw_ssh import RawClient


async def _handshake(port: int, host_key: str, number: int) -> bool:
    client = RawClient(host_key, keeps=False)
    with suppress(SshError, OSError, TimeoutError):
        async with asyncio.timeout(10):
            await client.connect("127.0.0.1", port, f"127.1.{number // 250 % 250}.{number % 250 + 1}")
            await client.secure()
            await client.leave()
            return True
    return False


async def _flood(port: int, host_key: str, per_second: float, seconds: float) -> int:
    loop, running = asyncio.get_running_loop(), []
    end, number = loop.time() + seconds, 0
    while loop.time() < end:
        running.append(asyncio.create_task(_handshake(port, host_key, number)))
        number += 1
        await asyncio.sleep(1 / per_second)
    return sum(await asyncio.gather(*running))


if __name__ == "__main__":
    _port, _host_key, _per_second, _seconds = sys.argv[1:]
    print(asyncio.run(_flood(int(_port), _host_key, float(_per_second), float(_seconds))))
