"""Rows for tests of the database."""

from datetime import UTC, datetime, timedelta
from typing import Any

from gateway.domain.models import Session
from gateway.domain.states import Status
from gateway.repositories.sql.database import SqlDatabase

NOW = datetime(2025, 1, 17, 8, tzinfo=UTC)


def session(user_id: str, start: int = 0, **changes: Any) -> Session:
    values: dict[str, Any] = {
        "id": f"id-of-{user_id}",
        "user_id": user_id,
        "status": Status.PENDING,
        "mig_profile": "1g.5gb",
        "gpu": "GPU-1",
        "start": start,
        "size": 1,
        "address": f"10.0.0.{start + 2}",
        "public_keys": [],
        "private_key": "",
        "host_key": "",
        "created_at": NOW,
        "expires_at": NOW + timedelta(hours=1),
    }
    return Session(**(values | changes))


def add(database: SqlDatabase, row: Session) -> None:
    with database.begin() as rows:
        rows.user(row.user_id)
        rows.add(row)
