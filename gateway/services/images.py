"""The images that the administrator offers for sessions, by name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.errors import GatewayError, InvalidRequest
from gateway.services.ports import Host

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class OfferedImage:
    """`problem` is why sessions cannot use the image now, None if they can."""

    name: str
    image: str
    problem: str | None


@dataclass(frozen=True)
class Images:
    """`references` has, by name, what Docker calls the image."""

    host: Host
    references: Mapping[str, str]

    def list(self) -> Sequence[OfferedImage]:
        return [OfferedImage(name, image, self._problem(image)) for name, image in self.references.items()]

    def pin(self, name: str) -> str:
        """Return the id of the image, which stays when its tag is moved. Raises `InvalidRequest` for an
        unknown name, and `ImageMissing`."""
        if name not in self.references:
            message = f"There is no image {name!r}: use one of {', '.join(self.references)}."
            raise InvalidRequest(message, {"image": [message]})
        return self.host.pin_image(self.references[name])

    def _problem(self, image: str) -> str | None:
        try:
            self.host.pin_image(image)
        except GatewayError as error:
            return str(error)
        return None
