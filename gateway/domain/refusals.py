"""What a user reads in the session when the gateway refuses a request of `lease`. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from gateway.domain.policies import Rule
from gateway.domain.usage import hours
from gateway.domain.words import Words
from gateway.languages import ENGLISH


@dataclass(frozen=True, slots=True)
class RefusalInWords:
    """`problem` is the problem+json that the API answers."""

    problem: Mapping[str, Any]
    words: Words

    def text(self, now: datetime) -> str:
        """Return a sentence with the times in the user's time zone."""
        match self.problem["type"].removeprefix("/problems/"), self.problem.get("rule"):
            case "waited-for", _:
                return self._waited_for(now)
            case "policy", Rule.MAX_LEASE_MINUTES:
                return self._too_long(now)
            case "policy", Rule.GPU_HOURS_PER_WEEK:
                return self._too_many_hours(now)
            case "policy", Rule.MAX_KEEP_HOURS:
                return self._kept_too_long()
            case "lease-moved", _:
                return self._moved(now)
            case "session-ended", _:
                return self.words.session_ended()
        return self._other()

    def _waited_for(self, now: datetime) -> str:
        _, latest = self.words.translated, self._time("max_expires_at", now)
        is_promised = self.problem["waiting"] is not None
        if latest is None:
            if is_promised:
                return _(
                    "The lease cannot be extended: somebody else was promised this slice. Wait in line again."
                )
            return _("The lease cannot be extended: the GPU will be in maintenance.")
        if is_promised:
            sentence = _(
                "The lease can be extended to {time} at the latest: somebody else was promised this slice."
            )
        else:
            sentence = _("The lease can be extended to {time} at the latest: the GPU will be in maintenance.")
        return sentence.format(time=latest)

    def _too_long(self, now: datetime) -> str:
        _, latest = self.words.translated, self._time("max_expires_at", now)
        length = self.words.span(timedelta(minutes=self.problem["limit"]))
        if latest is None:
            sentence = _(
                "A lease lasts at most {length}, extensions included: this one cannot be extended any more. "
                "Your files are kept for the next session."
            )
            return sentence.format(length=length)
        sentence = _(
            "A lease lasts at most {length}, extensions included: this one can be extended to {time}."
        )
        return sentence.format(length=length, time=latest)

    def _too_many_hours(self, now: datetime) -> str:
        _, again = self.words.translated, self._time("retry_at", now)
        facts = {"used": self.problem["used"], "limit": hours(self.problem["limit"])}
        if again is None:
            sentence = _("{used} of your {limit} GPU-hours for 7 days are used: ask for less.")
            return sentence.format(**facts)
        sentence = _("{used} of your {limit} GPU-hours for 7 days are used: it is possible from {time} on.")
        return sentence.format(**facts, time=again)

    def _kept_too_long(self) -> str:
        _ = self.words.translated
        sentence = _(
            "A session can be kept for at most {hours} hours at a time: ask for less, and again later."
        )
        return sentence.format(hours=self.problem["limit"])

    def _moved(self, now: datetime) -> str:
        _ = self.words.translated
        sentence = _("The lease ends at {time}: it was extended already. Extend it again if you want more.")
        return sentence.format(time=self._time("expires_at", now))

    def _other(self) -> str:
        """The details of the rest are for administrators, in English."""
        if self.words.language == ENGLISH:
            return str(self.problem["detail"])
        _ = self.words.translated
        if self.problem["status"] >= 500:
            return _("The gateway cannot do this now: try again later.")
        return _("The gateway does not allow this.")

    def _time(self, name: str, now: datetime) -> str | None:
        text = self.problem[name]
        return self.words.time(datetime.fromisoformat(text), now) if text else None
