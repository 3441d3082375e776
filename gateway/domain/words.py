"""The sentences that users read in their terminals. Times are in the time zone of `Words`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo

from gateway.domain.audit import ANONYMOUS, in_session
from gateway.domain.durations import in_words
from gateway.domain.models import EndedSession, Reason

_REASONS = {
    Reason.IDLE: "nobody used it",
    Reason.USER_EXIT: "its main process ended",
    Reason.FAILED: "it could not be opened, or its container was removed",
    Reason.UNCLAIMED: "nobody logged in to it after the wait",
    Reason.GPU_LOST: "its GPU slice was lost, which was not your fault",
    Reason.RESTARTED: "the server or its Docker was restarted",
    Reason.STOPPED: "an administrator stopped its container",
    Reason.KILLED: "its main process was killed from outside",
    Reason.OUT_OF_MEMORY: "it ran out of memory",
}
_BELL = "\a"


def on_terminal(lines: Sequence[str]) -> str:
    """Lines that stand out between a program's own, in whatever mode the terminal is."""
    return _BELL + "".join(f"\r\n *** {line}" for line in lines) + "\r\n"


def message(text: str) -> str:
    """An administrator's message, for terminals."""
    return on_terminal([f"Message from your administrator: {text}"])


def terminals(number: int) -> str:
    """The receipt of a text for terminals."""
    if not number:
        return "nobody connected"
    return "1 terminal" if number == 1 else f"{number} terminals"


def why(ended: EndedSession) -> str:
    """Why a session ended, for its user."""
    if ended.reason == Reason.EXPIRED:
        return f"its lease was over, {in_words(ended.expires_at - ended.created_at)}"
    if ended.reason == Reason.DELETED:
        return f"{_who(ended)} ended it{f': {ended.note}' if ended.note else ''}"
    if ended.reason == Reason.GAVE_UP:
        return f"nothing became free within {in_words(ended.expires_at - ended.created_at)}"
    return _REASONS[Reason(ended.reason)]


def _who(ended: EndedSession) -> str:
    """A caller without a token is an administrator, because before the first token every caller is."""
    if ended.ended_by == in_session(ended.user_id):
        return "you"
    if ended.ended_by is None or ended.ended_by.startswith(ANONYMOUS):
        return "an administrator"
    return ended.ended_by


def one_line(text: str) -> str:
    """The text without line breaks and without characters that steer a terminal."""
    return "".join(each if each.isprintable() else "?" for each in " ".join(text.split()))


def ordinal(number: int) -> str:
    """`1st`, `2nd`, `3rd`, `11th`."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _next_minute(at: datetime) -> datetime:
    """The whole minute at which, or before which, it is certain."""
    return at if not at.second else at.replace(second=0) + timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Words:
    """`zone` None is the host's own time zone. `contact` is whom users ask for a session, if it is known."""

    zone: tzinfo | None = None
    contact: str = ""

    def time(self, at: datetime, now: datetime) -> str:
        """`18:00 KST`; on another day `2025-01-18 18:00 KST`."""
        local, today = at.astimezone(self.zone), now.astimezone(self.zone)
        return f"{local:%H:%M %Z}" if local.date() == today.date() else self.date(at)

    def date(self, at: datetime) -> str:
        """`2025-01-17 18:00 KST`, for a text that is read at any time."""
        return f"{at.astimezone(self.zone):%Y-%m-%d %H:%M %Z}"

    def warning(self, ends: datetime, left: timedelta, latest_end: datetime | None, now: datetime) -> str:
        """What every terminal gets before the end."""
        lines = [
            f"Your lease ends in {in_words(left)}, at {self.time(ends, now)}. Files in your home are kept, "
            "running programs are not."
        ]
        if latest_end:
            lines.append(f"It can be extended to {self.time(latest_end, now)}:  lease extend 2h")
        else:
            lines.append("It cannot be extended any more.")
        return on_terminal(lines)

    def lease_in_words(self, profile: str, ends: datetime, latest_end: datetime | None, now: datetime) -> str:
        """What the user reads who asks for the lease."""
        extension = f"can be extended to {self.time(latest_end, now)}" if latest_end else "cannot be extended"
        return f"{profile} until {self.time(ends, now)}: {in_words(ends - now)} left, {extension}."

    def idle(self, ends: datetime, limit: timedelta, now: datetime) -> str:
        """What every terminal gets before a session ends because nobody uses it."""
        return on_terminal(
            [
                f"Nobody has used this session for a while. Unused sessions end after {in_words(limit)}: "
                f"this one at {self.time(ends, now)}.",
                "Type anything, or log in, to keep it. Files in your home are kept in any case.",
            ]
        )

    def last_time(self, before: EndedSession) -> str:
        """The line of the message of the day that says why the session before this one ended."""
        return f"ended {self.date(before.ended_at)}: {why(before)}"

    def ended(self, ended: EndedSession) -> str:
        """What a user who logs in after the end gets to read."""
        administrator = f"your administrator ({self.contact})" if self.contact else "your administrator"
        what = "wait for a session" if ended.reason == Reason.GAVE_UP else "session"
        return (
            f"Your {what} ({ended.mig_profile}) ended {self.date(ended.ended_at)}: {why(ended)}.\n"
            f"Your files are kept. For a new session, ask {administrator}."
        )

    def waiting(self, mig_profile: str, position: int, promised_at: datetime | None, now: datetime) -> str:
        """What a user who logs in while waiting gets to read."""
        place = f"No {mig_profile} is free. You are {ordinal(position)} in line"
        if promised_at is None:
            return f"{place}: no time can be promised before your wait ends."
        by = self.time(_next_minute(promised_at), now)
        return f"{place}: yours by {by} at the latest, sooner if somebody ends early."

    def opening(self, mig_profile: str) -> str:
        return f"Your session ({mig_profile}) opens now."

    def ending(self, ends: datetime) -> str:
        """The line of the message of the day, once the end was warned of."""
        return f"{self.date(ends)}: save what you need, running programs are not kept"

    def lease(self, ends: datetime, latest_end: datetime | None) -> str:
        """The line of the message of the day."""
        if latest_end is None:
            return self.date(ends)
        return f"{self.date(ends)}; can be extended to {self.date(latest_end)}"
