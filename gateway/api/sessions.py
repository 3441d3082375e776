"""/sessions: open, list, read and close sessions."""

from datetime import timedelta
from pathlib import Path
from typing import Any

from flask import Blueprint, current_app, request, url_for
from flask.typing import ResponseReturnValue

from gateway.api.authorisation import own_user, require_operator, require_own
from gateway.api.openapi import describes
from gateway.api.requests import ExtensionRequest, KeysRequest, SessionRequest
from gateway.api.responses import KeysResponse, OpenedResponse, SessionResponse, SessionsResponse, utc
from gateway.domain.lease import Extension
from gateway.domain.models import Session
from gateway.services.leases import Leases
from gateway.services.sessions import Sessions
from gateway.services.ssh_keys import UserKeys


class EntryPoint:
    """The SSH address that users connect to.

    `host_key` is the file with its public key. The router makes the key at its first start and keeps it.
    """

    def __init__(self, host: str, port: int, host_key: Path) -> None:
        self._host = host
        self._port = port
        self._host_key_file = host_key
        self._host_key: str | None = None

    def describe(self, user_id: str) -> dict[str, Any]:
        port = "" if self._port == 22 else f" -p {self._port}"
        return {
            "ssh_user": user_id,
            "ssh_host": self._host,
            "ssh_port": self._port,
            "ssh_command": f"ssh{port} {user_id}@{self._host}",
            "ssh_known_hosts": self._known_hosts_line(),
        }

    def _known_hosts_line(self) -> str | None:
        if self._host_key is None:
            try:
                self._host_key = " ".join(self._host_key_file.read_text().split()[:2])
            except OSError:
                return None
        return f"{self._host if self._port == 22 else f'[{self._host}]:{self._port}'} {self._host_key}"


def blueprint(
    sessions: Sessions, leases: Leases, user_keys: UserKeys, entry: EntryPoint, max_ttl_minutes: int
) -> Blueprint:
    routes = Blueprint("sessions", __name__, url_prefix="/sessions")
    session_request = SessionRequest(max_ttl_minutes)
    session_response, keys_request = SessionResponse(), KeysRequest()
    extension_request = ExtensionRequest()

    def response(session: Session) -> dict[str, Any]:
        fields = session_response.dump(session)
        latest_end = leases.limit.latest_end(session)
        fields["max_expires_at"] = utc(latest_end) if latest_end else None
        return {**fields, **entry.describe(session.user_id)}

    @routes.post("")
    @describes({201: OpenedResponse}, body=session_request, problems=(409, 422, 507))
    def create() -> ResponseReturnValue:
        """Open a session. The response comes when the user can log in."""
        given = session_request.load(request.get_json())
        require_own(given["user_id"])
        opened = sessions.open(
            given["user_id"],
            timedelta(minutes=given["ttl_minutes"]),
            given["mig_profile"],
            given["ssh_public_keys"],
        )
        body = response(opened.session)
        if opened.private_key is not None:
            body["ssh_private_key"] = opened.private_key
        path = url_for("sessions.read", session_id=opened.session.id)
        return body, 201, {"Location": current_app.config["PUBLIC_URL"] + path}

    @routes.get("")
    @describes({200: SessionsResponse})
    def list_live() -> ResponseReturnValue:
        """List the live sessions, oldest first."""
        return {"sessions": [response(session) for session in sessions.list(own_user())]}

    @routes.get("/<session_id>")
    @describes({200: SessionResponse}, problems=(404, 410))
    def read(session_id: str) -> ResponseReturnValue:
        """Read a live session."""
        return response(sessions.get(session_id, own_user()))

    @routes.post("/<session_id>/extend")
    @describes({200: SessionResponse}, body=extension_request, problems=(403, 404, 409, 410, 422, 507))
    def extend(session_id: str) -> ResponseReturnValue:
        """Extend the lease of a live session."""
        given = extension_request.load(request.get_json())
        if given["override"]:
            require_operator("override")
        by = None if given["minutes"] is None else timedelta(minutes=given["minutes"])
        extension = Extension(by, given["ends"], given["override"])
        return response(leases.extend(session_id, extension, own_user()))

    @routes.put("/<session_id>/keys")
    @describes({200: KeysResponse}, body=keys_request, problems=(404, 410, 422, 507))
    def replace_keys(session_id: str) -> ResponseReturnValue:
        """Replace the public keys of a live session, and close connections of revoked keys."""
        given = keys_request.load(request.get_json())
        return {"ssh_public_keys": user_keys.replace_in_session(session_id, given["ssh_public_keys"])}

    @routes.delete("/<session_id>")
    @describes({204: None, 202: SessionResponse}, problems=(404, 410, 507))
    def delete(session_id: str) -> ResponseReturnValue:
        """Close a session: 204 when everything is removed, 202 if the gateway must repeat a step."""
        sessions.get(session_id, own_user())
        if sessions.close(session_id):
            return "", 204
        return response(sessions.get(session_id)), 202

    return routes
