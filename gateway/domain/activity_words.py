"""Whether a session is used, in words: for `gateway why`, and for `lease why` in the session."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from gateway.domain.activity import IdlePolicy, Signal, State
from gateway.domain.signal_words import SignalInWords
from gateway.domain.words import Words, columns


@dataclass(frozen=True, slots=True)
class ActivityInWords:
    """`found` is what the API says about the use of a session."""

    found: Mapping[str, Any]
    words: Words

    def headline(self, now: datetime) -> str:
        _ = self.words.translated
        match self.found["state"]:
            case "off":
                return _("Unused sessions of this user do not end: --idle-minutes is 0.")
            case "unknown":
                return _("UNKNOWN: the signals were not read yet.")
            case "active":
                reasons = [each.name for each in self._in_words if each.signal.state is not State.IDLE]
                return _("ACTIVE, because of: {signals}.").format(signals=", ".join(reasons))
        facts = {"span": self._idle_for(now), "time": self.words.date(self._time("ends_at"))}
        if self.found["policy"] == IdlePolicy.ALWAYS:
            return _("IDLE for {span}; ends at {time}, after a warning.").format(**facts)
        if waiting := self.found["waiting"]:
            sentence = _("IDLE for {span}; ends at {time}, after a warning: {user} waits for a {profile}.")
            who = waiting["user_id"] or _("somebody")
            return sentence.format(**facts, user=who, profile=waiting["mig_profile"])
        return _("IDLE for {span}; ends after {time} if somebody then gets a session earlier.").format(
            **facts
        )

    def kept(self) -> str:
        _ = self.words.translated
        if self.found["keep_until"] is None:
            return _("Not kept any longer: it ends if nobody uses it.")
        kept = _("Kept until {time}, or until the lease ends.")
        return kept.format(time=self.words.date(self._time("keep_until")))

    def lease(self) -> str:
        _ = self.words.translated
        return _("The lease ends at {time}.").format(time=self.words.date(self._time("expires_at")))

    @property
    def signals(self) -> list[Signal]:
        return [Signal(each["name"], State(each["state"]), each["detail"]) for each in self.found["signals"]]

    def text(self, now: datetime) -> str:
        """All of it, in lines."""
        rows = self._in_words
        names, states = _aligned([each.name for each in rows]), _aligned([each.state for each in rows])
        signals = [
            f"{name}  {state}  {each.detail}" for name, state, each in zip(names, states, rows, strict=True)
        ]
        return "\n".join([self.headline(now), *signals, self.lease()])

    @property
    def _in_words(self) -> list[SignalInWords]:
        return [SignalInWords(each, self.words) for each in self.signals]

    def _idle_for(self, now: datetime) -> str:
        idle = (now - self._time("idle_since")) // timedelta(minutes=1) * timedelta(minutes=1)
        return self.words.span(max(timedelta(minutes=1), idle))

    def _time(self, name: str) -> datetime:
        return datetime.fromisoformat(self.found[name])


def _aligned(texts: Sequence[str]) -> list[str]:
    """The texts, each with spaces behind it, so that all are equally wide."""
    width = max(map(columns, texts), default=0)
    return [text + " " * (width - columns(text)) for text in texts]
