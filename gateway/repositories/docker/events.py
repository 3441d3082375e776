"""Docker's events that report the end of a session's container."""

from collections.abc import Iterator
from contextlib import suppress

from docker.errors import StreamParseError

from gateway.repositories.docker import labels
from gateway.repositories.docker.client import Docker, translated_errors


class DockerEndings:
    """The ends of containers on `network`, from now on, as session ids.

    A removed container is reported twice, because Docker may still list it after its first event.
    """

    def __init__(self, docker: Docker, network: str) -> None:
        filters = {
            "type": "container",
            "event": ["die", "destroy"],
            "label": [labels.SESSION, f"{labels.NETWORK}={network}"],
        }
        with translated_errors():
            self._stream = docker.client.api.events(filters=filters, decode=True)

    def __iter__(self) -> Iterator[str]:
        with suppress(StreamParseError):  # the stream ended in the middle of an event
            for event in self._stream:
                yield event["Actor"]["Attributes"][labels.SESSION]

    def close(self) -> None:
        with suppress(OSError, AttributeError):  # Docker or another thread has closed it already
            self._stream.close()
