"""Docker's events, as far as they tell that a session's container has ended."""

from collections.abc import Iterator
from contextlib import suppress

from docker.errors import StreamParseError

from gateway.repositories.docker import labels
from gateway.repositories.docker.client import Docker, translated_errors


class DockerEndings:
    """Of containers on `network`, from now on. One that is removed is told of twice: at its death it may be
    listed still as one that is about to go."""

    def __init__(self, docker: Docker, network: str) -> None:
        filters = {
            "type": "container",
            "event": ["die", "destroy"],
            "label": [labels.SESSION, f"{labels.NETWORK}={network}"],
        }
        with translated_errors():
            self._stream = docker.client.api.events(filters=filters, decode=True)

    def __iter__(self) -> Iterator[str]:
        with suppress(StreamParseError):  # cut off in the middle of one
            for told in self._stream:
                yield told["Actor"]["Attributes"][labels.SESSION]

    def close(self) -> None:
        with suppress(OSError, AttributeError):  # closed already, by Docker or by another thread
            self._stream.close()
