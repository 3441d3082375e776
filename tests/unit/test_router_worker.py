"""A worker process's talk with its supervisor."""

import asyncio
from pathlib import Path
from typing import Any

from gateway.router.channel import Channel
from gateway.router.worker import Worker


def test_a_verdict_about_a_client_that_has_just_left_disturbs_nobody(tmp_path: Path) -> None:
    async def test() -> list[dict[str, Any]]:
        complaints: list[dict[str, Any]] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: complaints.append(context))
        supervisor, channel = Channel.pair()
        worker = Worker(channel, tmp_path / "pipe.yaml", {})
        running = loop.create_task(worker.run())
        login = loop.create_task(worker.log_in(7, "user123"))
        await asyncio.sleep(0)
        supervisor.send({"command": "verdict", "number": 7, "refusal": None})
        supervisor.send({"command": "stop"})
        loop.call_soon(login.cancel)  # in the same round of the loop that reads the verdict
        await running
        assert login.cancelled()
        for end in (supervisor, channel):
            end.close()
        return complaints

    assert asyncio.run(test()) == []
