"""Bare views under the gateway's own gunicorn settings: `python -m tests.bench.bare PORT [DATABASE]`.

Without a database, /sessions/ID is a constant. With one, it is the row by SQLAlchemy and marshmallow alone.
"""

import sys
from pathlib import Path
from typing import Any

from flask import Flask, request
from flask.typing import ResponseReturnValue
from sqlalchemy import orm, select

from gateway.api.responses import SessionResponse
from gateway.database_url import DatabaseUrl
from gateway.domain.models import Session
from gateway.repositories.sql.database import make_engine
from gateway.server import Server
from gateway.settings import Settings

ANSWER = {
    "session_id": "6a3be1d6-1c04-4f43-9be6-1cf5b7b8d2ef",
    "user_id": "user123",
    "container_id": "c" * 64,
    "gpu_uuid": "MIG-5c2d4f86-3b46-5d05-9a0d-6f4d4a0e8a5c",
    "mig_profile": "1g.5gb",
    "status": "active",
    "created_at": "2025-01-17T08:00:00Z",
    "expires_at": "2025-01-17T09:00:00Z",
    "ssh_user": "user123",
    "ssh_host": "127.0.0.1",
    "ssh_port": 2222,
    "ssh_command": "ssh -p 2222 user123@127.0.0.1",
    "ssh_known_hosts": "[127.0.0.1]:2222 ssh-ed25519 " + "A" * 68,
}


class BareServer(Server):
    """The same server over an application that has no reaper."""

    def load_config(self) -> None:
        super().load_config()
        self.cfg.set("post_worker_init", lambda _worker: None)
        self.cfg.set("worker_exit", lambda _server, _worker: None)

    def load(self) -> Any:
        app = Flask("bare")

        @app.get("/sessions/<session_id>")
        def read(session_id: str) -> ResponseReturnValue:
            return ANSWER

        return app


class RowServer(BareServer):
    """The least that a view of a row can be: no tokens, no roles, no errors."""

    database = ""

    def load(self) -> Any:
        app, schema = Flask("row"), SessionResponse()
        session = orm.sessionmaker(make_engine(DatabaseUrl(Path(self.database))))

        @app.get("/sessions/<session_id>")
        def read(session_id: str) -> ResponseReturnValue:
            with session() as reading:
                return {**schema.dump(reading.get(Session, session_id))}

        @app.get("/sessions")
        def list_oldest() -> ResponseReturnValue:
            oldest = (
                select(Session).order_by(Session.created_at, Session.id).limit(int(request.args["limit"]))
            )
            with session() as reading:
                return {"sessions": schema.dump(reading.scalars(oldest), many=True)}

        return app


if __name__ == "__main__":
    server = RowServer if len(sys.argv) > 2 else BareServer
    RowServer.database = sys.argv[-1]
    server(Settings(port=int(sys.argv[1]))).run()
