"""A signal of a session's use, in the language of the user. What the API says of it is English. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.domain.activity import Signal
from gateway.domain.words import Words
from gateway.languages import ENGLISH


@dataclass(frozen=True, slots=True)
class SignalInWords:
    signal: Signal
    words: Words

    @property
    def name(self) -> str:
        _ = self.words.translated
        names = {
            "connections": _("connections"),
            "terminals": _("terminals"),
            "cpu": _("cpu"),
            "gpu": _("gpu"),
            "keep": _("keep"),
        }
        return names.get(self.signal.name, self.signal.name)

    @property
    def state(self) -> str:
        _ = self.words.translated
        states = {"active": _("active"), "idle": _("idle"), "unknown": _("unknown")}
        return states[self.signal.state]

    @property
    def detail(self) -> str:
        if self.words.language == ENGLISH:
            return self.signal.detail
        for pattern, sentence in self._sentences().items():
            if found := re.fullmatch(pattern, self.signal.detail):
                return sentence.format(**found.groupdict())
        return self.signal.detail

    def _sentences(self) -> Mapping[str, str]:
        """What `gateway.domain.activity` says, and how the user reads it."""
        _, number = self.words.translated, r"(?P<number>\d+)"
        return {
            "none": _("none"),
            "no process": _("no process"),
            "not asked": _("not asked"),
            "the session did not answer": _("the session did not answer"),
            "the driver did not answer": _("the driver did not answer"),
            "measured from the next reading on": _("measured from the next reading on"),
            rf"{number} open": _("{number} open"),
            rf"{number} open, silent for (?P<minutes>\d+) min": _("{number} open, silent for {minutes} min"),
            r"last used (?P<minutes>\d+) min ago": _("last used {minutes} min ago"),
            r"(?P<share>[\d.]+%) of one CPU, idle below (?P<limit>\d+%)": _(
                "{share} of one CPU, idle below {limit}"
            ),
            rf"{number} process(es)?, (?P<share>\d+%) busy": _("{number} processes, {share} busy"),
            rf"{number} process(es)?, and no meter says whether it works": _(
                "{number} processes, and no meter says whether they work"
            ),
            r"until (?P<time>.+)": _("until {time}"),
        }
