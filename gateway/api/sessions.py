"""/sessions: open, list, look at and close leases."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from flask import Blueprint, request, url_for
from flask.typing import ResponseReturnValue

from gateway.api.schemas import SessionAnswer, SessionRequest
from gateway.models import Session
from gateway.sessions import Sessions


@dataclass(frozen=True, slots=True)
class EntryPoint:
    """Where users find the SSH router. `host_key` is the file of its public key, made at its first start."""

    host: str
    port: int
    host_key: Path

    def describe(self, user_id: str) -> dict[str, Any]:
        port = "" if self.port == 22 else f" -p {self.port}"
        return {
            "ssh_user": user_id,
            "ssh_host": self.host,
            "ssh_port": self.port,
            "ssh_command": f"ssh{port} {user_id}@{self.host}",
            "ssh_known_hosts": self._known_hosts_line(),
        }

    def _known_hosts_line(self) -> str | None:
        try:
            key = " ".join(self.host_key.read_text().split()[:2])
        except OSError:
            return None
        return f"{self.host if self.port == 22 else f'[{self.host}]:{self.port}'} {key}"


def blueprint(sessions: Sessions, entry: EntryPoint, max_ttl_minutes: int) -> Blueprint:
    routes = Blueprint("sessions", __name__, url_prefix="/sessions")
    session_request = SessionRequest(max_ttl_minutes)
    session_answer = SessionAnswer()

    def answer(session: Session) -> dict[str, Any]:
        return {**session_answer.dump(session), **entry.describe(session.user_id)}

    @routes.post("")
    def create() -> ResponseReturnValue:
        """Returns when the user can log in."""
        wanted = session_request.load(request.get_json())
        opened = sessions.open(
            wanted["user_id"],
            timedelta(minutes=wanted["ttl_minutes"]),
            wanted["mig_profile"],
            wanted["ssh_public_keys"],
        )
        body = answer(opened.session)
        if opened.private_key is not None:
            body["ssh_private_key"] = opened.private_key
        return body, 201, {"Location": url_for("sessions.read", session_id=opened.session.id)}

    @routes.get("")
    def list_live() -> ResponseReturnValue:
        """Live sessions, oldest first."""
        return {"sessions": [answer(session) for session in sessions.list()]}

    @routes.get("/<session_id>")
    def read(session_id: str) -> ResponseReturnValue:
        return answer(sessions.get(session_id))

    @routes.delete("/<session_id>")
    def delete(session_id: str) -> ResponseReturnValue:
        """204 when everything is taken back; 202 when the reaper must try again."""
        if sessions.close(session_id):
            return "", 204
        return answer(sessions.get(session_id)), 202

    return routes
