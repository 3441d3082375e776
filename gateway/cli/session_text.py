"""Sessions of the API as text: a row of a table, a list of facts, and when their leases end."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from gateway.client import Client
from gateway.domain.durations import in_words
from gateway.domain.words import Words, ordinal
from gateway.errors import GatewayError

Session = Mapping[str, Any]


def gpu_labels(client: Client) -> Mapping[str, str]:
    """The label of each session's GPU, by the session's id; empty if the driver does not answer."""
    try:
        gpus = client.list("/gpus", "gpus")
    except GatewayError:
        return {}
    return {
        piece["session_id"]: gpu["label"] for gpu in gpus for piece in gpu["instances"] if piece["session_id"]
    }


def row(session: Session, gpus: Mapping[str, str]) -> list[str]:
    latest = session["max_expires_at"]
    return [
        session["user_id"],
        session["mig_profile"],
        gpus.get(session["session_id"], "-"),
        session["status"],
        left(session),
        Words().time(time(latest), datetime.now(UTC)) if latest else "-",
    ]


def waiting_row(request: Session) -> list[str]:
    """A request in line, as a row of the table of sessions."""
    promised_at = request["promised_at"]
    by = f"by {Words().time(time(promised_at), datetime.now(UTC))}" if promised_at else "-"
    place = f"{ordinal(request['position'])} in line"
    return [request["user_id"], request["mig_profile"], "-", "waiting", by, place]


def facts(session: Session, gpus: Mapping[str, str]) -> dict[str, str]:
    if session["status"] == "waiting":
        return {
            "slice": session["mig_profile"],
            "state": place(session, datetime.now(UTC)),
            "gives up": date(session["wait_until"]),
            "connect": session["ssh_command"],
        }
    latest, gpu = session["max_expires_at"], gpus.get(session["session_id"])
    further = f", can be extended to {date(latest)}" if latest else ", cannot be extended"
    facts = {
        "slice": session["mig_profile"] + (f" on GPU {gpu}" if gpu else ""),
        "device": session["gpu_uuid"] or "-",
        "state": session["status"],
        "lease": f"until {date(session['expires_at'])} ({left(session)} left){further}",
        "opened": date(session["opened_at"]) if session["opened_at"] else "-",
        "connect": session["ssh_command"],
    }
    return facts | ({"problem": session["problem"]} if session["problem"] else {})


def place(request: Session, now: datetime) -> str:
    """`2nd in line, by 14:20 KST (38 minutes) at the latest`."""
    if request["status"] != "waiting":
        return "the session opens now"
    if request["promised_at"] is None:
        return f"{ordinal(request['position'])} in line, nothing can be promised before the wait ends"
    at = time(request["promised_at"])
    left = max(timedelta(minutes=1), at - now)
    whole = timedelta(minutes=-(-left // timedelta(minutes=1)))
    by = f"by {Words().time(at, now)} ({in_words(whole)}) at the latest"
    return f"{ordinal(request['position'])} in line, {by}"


def left(session: Session) -> str:
    """Hours and minutes until the lease ends."""
    left = max(timedelta(), time(session["expires_at"]) - datetime.now(UTC)) // timedelta(minutes=1)
    return f"{left // 60}:{left % 60:02}"


def time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def date(text: str) -> str:
    return Words().date(time(text))
