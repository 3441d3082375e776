"""Sessions of the API as text: a row of a table, a list of facts, and when their leases end."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from gateway.client import Client
from gateway.domain.words import Words
from gateway.errors import GatewayError

Session = Mapping[str, Any]


def gpu_indexes(client: Client) -> Mapping[str, str]:
    """The index of each session's GPU, by the session's id; empty if the driver does not answer."""
    try:
        gpus = client.ask("GET", "/gpus")["gpus"]
    except GatewayError:
        return {}
    return {
        piece["session_id"]: str(gpu["index"])
        for gpu in gpus
        for piece in gpu["instances"]
        if piece["session_id"]
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


def facts(session: Session, gpus: Mapping[str, str]) -> dict[str, str]:
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


def left(session: Session) -> str:
    """Hours and minutes until the lease ends."""
    left = max(timedelta(), time(session["expires_at"]) - datetime.now(UTC)) // timedelta(minutes=1)
    return f"{left // 60}:{left % 60:02}"


def time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def date(text: str) -> str:
    return Words().date(time(text))
