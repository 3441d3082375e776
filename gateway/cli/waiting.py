"""Waits until the session of a request in line is open, and shows the place in line meanwhile."""

import sys
import time
from datetime import UTC, datetime
from typing import Any

import click

from gateway.cli.session_text import Session, place
from gateway.client import Client, Refused
from gateway.errors import Unavailable

POLL_SECONDS = 2.0


class GaveUp(Unavailable):
    """The wait is over without a session. The same command may succeed later."""


def wait_for(client: Client, request: Session) -> Session:
    """Return the session when its user can log in. Raises `GaveUp`, and `Refused` if it failed.

    A gateway that does not answer for a while is asked again: the place in line is kept.
    """
    line = _Line()
    try:
        while request["status"] != "active":
            line.show(request)
            time.sleep(POLL_SECONDS)
            request = _read(client, request)
    except KeyboardInterrupt:
        line.clear()
        click.echo(
            f"The request stays in line; `gateway end {request['user_id']} --yes` gives it up.", err=True
        )
        raise
    finally:
        line.clear()
    return request


def _read(client: Client, request: Session) -> Session:
    try:
        found: Session = client.ask("GET", f"/sessions/{request['session_id']}")
    except Refused as refusal:
        if refusal.problem.get("reason") == "gave_up":
            raise GaveUp(f"Nothing became free for {request['user_id']} in time: try again later.") from None
        if refusal.is_temporary:
            return request
        raise
    except Unavailable:
        return request
    return found


class _Line:
    """One line on a terminal that changes; otherwise a line for each change of the place or the promise."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._shown: Any = None

    def show(self, request: Session) -> None:
        text = place(request, datetime.now(UTC))
        if self._is_terminal:
            sys.stderr.write(f"\r\033[K{text}")
            sys.stderr.flush()
            return
        facts = request["status"], request.get("position"), request.get("promised_at")
        if facts != self._shown:
            self._shown = facts
            click.echo(text, err=True)

    def clear(self) -> None:
        if self._is_terminal:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
