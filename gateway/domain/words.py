"""The sentences that users read in their terminals, in the language and the time zone of `Words`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from typing import TYPE_CHECKING
from unicodedata import east_asian_width

from gateway.domain.audit import ANONYMOUS, in_session
from gateway.domain.disk import Fill, gib
from gateway.domain.durations import in_words
from gateway.domain.notice import LEFT
from gateway.domain.states import Reason
from gateway.languages import ENGLISH, translations

if TYPE_CHECKING:  # SQLAlchemy, which every command would load
    from gateway.domain.models import EndedSession

_BELL = "\a"


def on_terminal(lines: Sequence[str]) -> str:
    """Lines that stand out between a program's own, in whatever mode the terminal is."""
    return _BELL + "".join(f"\r\n *** {line}" for line in lines) + "\r\n"


def terminals(number: int) -> str:
    """The receipt of a text for terminals, for the audit log."""
    if not number:
        return "nobody connected"
    return "1 terminal" if number == 1 else f"{number} terminals"


def one_line(text: str) -> str:
    """The text without line breaks and without characters that steer a terminal."""
    return "".join(each if each.isprintable() else "?" for each in " ".join(text.split()))


def columns(text: str) -> int:
    """How many columns of a terminal the text takes."""
    return sum(2 if east_asian_width(each) in "WF" else 1 for each in text)


def ordinal(number: int) -> str:
    """`1st`, `2nd`, `3rd`, `11th`."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def next_minute(at: datetime) -> datetime:
    """The whole minute at which, or before which, it is certain."""
    return at if not at.second else at.replace(second=0) + timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Words:
    """`zone` None is the host's own time zone. `contact` is whom users ask for a session, if it is known.
    `language` is one of `gateway.languages`."""

    zone: tzinfo | None = None
    contact: str = ""
    language: str = ENGLISH

    def time(self, at: datetime, now: datetime) -> str:
        """`18:00 KST`; on another day `2025-01-18 18:00 KST`."""
        local, today = at.astimezone(self.zone), now.astimezone(self.zone)
        return f"{local:%H:%M %Z}" if local.date() == today.date() else self.date(at)

    def date(self, at: datetime) -> str:
        """`2025-01-17 18:00 KST`, for a text that is read at any time."""
        return f"{at.astimezone(self.zone):%Y-%m-%d %H:%M %Z}"

    def message(self, text: str) -> str:
        """An administrator's message, for terminals."""
        _ = self.translated
        return on_terminal([_("Message from your administrator: {text}").format(text=text)])

    def warning(self, ends: datetime, left: timedelta, latest_end: datetime | None, now: datetime) -> str:
        """What every terminal gets before the end."""
        _ = self.translated
        ending = _(
            "Your lease ends in {left}, at {time}. Files in your home are kept, running programs are not."
        )
        lines = [ending.format(left=self.span(left), time=self.time(ends, now))]
        if latest_end:
            extension = _("It can be extended to {time}:  lease extend 2h")
            lines.append(extension.format(time=self.time(latest_end, now)))
        else:
            lines.append(_("It cannot be extended any more."))
        return on_terminal(lines)

    def lease_in_words(self, profile: str, ends: datetime, latest_end: datetime | None, now: datetime) -> str:
        """What the user reads who asks for the lease."""
        _ = self.translated
        facts = {"profile": profile, "time": self.time(ends, now), "left": self.span(ends - now)}
        if latest_end is None:
            return _("{profile} until {time}: {left} left, cannot be extended.").format(**facts)
        return _("{profile} until {time}: {left} left, can be extended to {latest}.").format(
            **facts, latest=self.time(latest_end, now)
        )

    def idle(self, ends: datetime, limit: timedelta, now: datetime) -> str:
        """What every terminal gets before a session ends because nobody uses it."""
        _ = self.translated
        unused = _(
            "Nobody has used this session for a while. Unused sessions end after {limit}: this one at {time}."
        )
        return on_terminal(
            [
                unused.format(limit=self.span(limit), time=self.time(ends, now)),
                _("Type anything, or log in, to keep it. Files in your home are kept in any case."),
            ]
        )

    def last_time(self, before: "EndedSession") -> str:
        """The line of the message of the day that says why the session before this one ended."""
        _ = self.translated
        return _("ended {date}: {why}").format(date=self.date(before.ended_at), why=self.why(before))

    def ended(self, ended: "EndedSession") -> str:
        """What a user who logs in after the end gets to read."""
        _ = self.translated
        what = _("Your session ({profile}) ended {date}: {why}.")
        if ended.reason == Reason.GAVE_UP:
            what = _("Your wait for a session ({profile}) ended {date}: {why}.")
        next_one = _("Your files are kept. For a new session, ask your administrator.")
        if self.contact:
            next_one = _("Your files are kept. For a new session, ask your administrator ({contact}).")
        facts = {"profile": ended.mig_profile, "date": self.date(ended.ended_at), "why": self.why(ended)}
        return f"{what.format(**facts)}\n{next_one.format(contact=self.contact)}"

    def why(self, ended: "EndedSession") -> str:
        """Why a session ended, for its user."""
        _ = self.translated
        length = self.span(ended.expires_at - ended.created_at)
        match ended.reason:
            case Reason.EXPIRED:
                return _("its lease was over, {length}").format(length=length)
            case Reason.DELETED:
                return self._who(ended) + (f": {ended.note}" if ended.note else "")
            case Reason.GAVE_UP:
                return _("nothing became free within {length}").format(length=length)
        reasons = {
            Reason.IDLE: _("nobody used it"),
            Reason.USER_EXIT: _("its main process ended"),
            Reason.FAILED: _("it could not be opened, or its container was removed"),
            Reason.UNCLAIMED: _("nobody logged in to it after the wait"),
            Reason.GPU_LOST: _("its GPU slice was lost, which was not your fault"),
            Reason.RESTARTED: _("the server or its Docker was restarted"),
            Reason.STOPPED: _("an administrator stopped its container"),
            Reason.KILLED: _("its main process was killed from outside"),
            Reason.OUT_OF_MEMORY: _("it ran out of memory"),
        }
        return reasons[Reason(ended.reason)]

    def waiting(self, mig_profile: str, position: int, promised_at: datetime | None, now: datetime) -> str:
        """What a user who logs in while waiting gets to read. It is a text of a notice."""
        _ = self.translated
        facts = {"profile": mig_profile, "place": self._place(position)}
        if promised_at is None:
            unknown = _(
                "No {profile} is free. You are {place} in line: no time can be promised before your wait "
                "ends."
            )
            return unknown.format(**facts)
        promise = _(
            "No {profile} is free. You are {place} in line: yours by {time} ({left}) at the latest, sooner "
            "if somebody ends early."
        )
        return promise.format(**facts, time=self.time(next_minute(promised_at), now), left=LEFT)

    def opening(self, mig_profile: str) -> str:
        _ = self.translated
        return _("Your session ({profile}) opens now.").format(profile=mig_profile)

    def ready(self, mig_profile: str, ends: datetime, now: datetime) -> str:
        """What a user reads whose login waited, when it gets in. It is a text of a notice."""
        _ = self.translated
        sentence = _("Your session is ready: {profile} until {time} ({left}).")
        return sentence.format(profile=mig_profile, time=self.time(ends, now), left=LEFT)

    def ending(self, ends: datetime) -> str:
        """The line of the message of the day, once the end was warned of."""
        _ = self.translated
        return _("{date}: save what you need, running programs are not kept").format(date=self.date(ends))

    def disk(self, used: int, quota: int) -> str | None:
        """What the user of a workspace must know about its size in bytes; None while there is room."""
        if Fill.of(used, quota) is Fill.ROOM:
            return None
        _ = self.translated
        full = _(
            "{used} of {quota} are used; above that there is no next session: remove files that you can spare"
        )
        return full.format(used=gib(used), quota=gib(quota))

    def session_ended(self) -> str:
        """The answer to a user who ends their session."""
        _ = self.translated
        return _("The session has ended.")

    def lease(self, ends: datetime, latest_end: datetime | None) -> str:
        """The line of the message of the day."""
        if latest_end is None:
            return self.date(ends)
        _ = self.translated
        return _("{date}; can be extended to {latest}").format(
            date=self.date(ends), latest=self.date(latest_end)
        )

    def _who(self, ended: "EndedSession") -> str:
        """A caller without a token is an administrator, because before the first token every caller is."""
        _ = self.translated
        if ended.ended_by == in_session(ended.user_id):
            return _("you ended it")
        if ended.ended_by is None or ended.ended_by.startswith(ANONYMOUS):
            return _("an administrator ended it")
        return _("{name} ended it").format(name=ended.ended_by)

    def _place(self, position: int) -> str:
        return ordinal(position) if self.language == ENGLISH else str(position)

    def span(self, span: timedelta) -> str:
        return in_words(span, self.language)

    def translated(self, sentence: str) -> str:
        return translations(self.language).gettext(sentence)
