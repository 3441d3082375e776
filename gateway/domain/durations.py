"""Spans of time as people write and read them: `90m`, `2h`, `1d`; "90 minutes", "2 hours", "1 h 12 min"."""

import re
from datetime import timedelta

from gateway.languages import ENGLISH, translations

_WRITTEN = re.compile(r"(?:([1-9][0-9]*)d)?(?:([1-9][0-9]*)h)?(?:([1-9][0-9]*)m)?", re.IGNORECASE)
_LONGEST_TEXT = 12  # characters; more digits than any span needs
_MINUTE = timedelta(minutes=1)


def parse(text: str) -> timedelta:
    """Read `90m`, `2h`, `1d` or `1h30m`. Raises `ValueError` with a sentence for a person."""
    match = _WRITTEN.fullmatch(text.strip()) if len(text) <= _LONGEST_TEXT else None
    if match is None or not any(match.groups()):
        raise ValueError(f"{text!r} is not a duration: use minutes, hours or days such as 90m, 2h or 1d.")
    days, hours, minutes = (int(number or 0) for number in match.groups())
    try:
        return timedelta(days=days, hours=hours, minutes=minutes)
    except OverflowError:
        raise ValueError(f"{text!r} is too long for a duration.") from None


def write(span: timedelta) -> str:
    """The form that `parse` reads, in whole minutes: `1d2h`, `90m` as `1h30m`."""
    numbers = zip(_parts(span // _MINUTE), "dhm", strict=True)
    return "".join(f"{number}{unit}" for number, unit in numbers if number) or "0m"


def in_words(span: timedelta, language: str = ENGLISH) -> str:
    """The span for a sentence, rounded to the minute, below two minutes to the second."""
    words = translations(language)
    if span < 2 * _MINUTE:
        seconds = max(0, round(span.total_seconds()))
        return words.ngettext("%d second", "%d seconds", seconds) % seconds
    minutes = round(span / _MINUTE)
    days, hours = minutes / (24 * 60), minutes / 60
    if days.is_integer():
        return words.ngettext("%d day", "%d days", int(days)) % days
    if hours.is_integer():
        return words.ngettext("%d hour", "%d hours", int(hours)) % hours
    if minutes < 120:
        return words.ngettext("%d minute", "%d minutes", minutes) % minutes
    units = (words.gettext("%d d"), words.gettext("%d h"), words.gettext("%d min"))
    return " ".join(unit % number for unit, number in zip(units, _parts(minutes), strict=True) if number)


def _parts(minutes: int) -> tuple[int, int, int]:
    """Days, hours and minutes."""
    days, rest = divmod(minutes, 24 * 60)
    return days, *divmod(rest, 60)
