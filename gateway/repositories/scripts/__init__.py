"""The scripts that the gateway runs in a session, as its user, on every kind of host."""

from abc import ABC, abstractmethod
from enum import StrEnum
from importlib.resources import files

from gateway.domain.activity import Probe
from gateway.domain.models import Session
from gateway.errors import ContainerFailed


class Script(StrEnum):
    TELL = "tell"
    HOOK = "hook"
    SIGNAL = "signal"
    ACTIVITY = "activity"
    GPU = "gpu"
    DISCONNECT = "disconnect"

    @property
    def text(self) -> str:
        return (files(__package__) / f"{self}.sh").read_text()

    def result(self, output: str) -> str:
        """Return what the script printed. Raises `ContainerFailed` if it is not that of a success."""
        printed = output.strip()
        if not self._prints(printed):
            raise ContainerFailed(f"The session's container answered with {printed[:100]!r}.")
        return printed

    def _prints(self, text: str) -> bool:
        if self is Script.ACTIVITY:
            return Probe.parse(text) is not None
        if self is Script.GPU:
            return text.isdecimal() or text == "unknown"
        return text in ("started", "none", "already") if self is Script.HOOK else text.isdecimal()


class RunsScripts(ABC):
    """What a host learns from the scripts, and does by them. Each method raises `ContainerFailed`."""

    def tell(self, session: Session, text: str) -> int:
        return int(self._inside(session, Script.TELL, text))

    def run_hook(self, session: Session, seconds_left: int) -> bool:
        return self._inside(session, Script.HOOK, str(seconds_left), str(session.lease_seconds)) == "started"

    def signal(self, session: Session) -> int:
        return int(self._inside(session, Script.SIGNAL))

    def activity(self, session: Session) -> Probe | None:
        return Probe.parse(self._inside(session, Script.ACTIVITY))

    @abstractmethod
    def _inside(self, session: Session, script: Script, *arguments: str) -> str:
        """Run the script in the session and return its result."""
