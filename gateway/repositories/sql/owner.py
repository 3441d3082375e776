"""Whose sessions a PostgreSQL database holds: those of one machine.

Another machine's gateway would find none of their containers, and close every one of them.
"""

from collections.abc import Callable

from sqlalchemy import func, or_, select, update

from gateway.database_url import DatabaseUrl
from gateway.domain.models import Deployment
from gateway.errors import StartRefused
from gateway.repositories.sql.database import make_engine, translated_errors


def require_own(db: DatabaseUrl, identify: Callable[[], str]) -> None:
    """Raises `StartRefused` when `db` is another machine's; the first that asks has it."""
    if db.path is not None:
        return  # a file is where its machine is
    machine = identify()
    engine = make_engine(db)
    try:
        with translated_errors(), engine.begin() as connection:
            first = update(Deployment).where(Deployment.machine.is_(None)).values(machine=machine)
            connection.execute(first)
            owner = connection.scalar(select(Deployment.machine))
    finally:
        engine.dispose()
    if owner != machine:
        raise StartRefused(
            f"The database {db} holds the sessions of another machine: give each a database of its own. "
            "If this machine has taken that one's place, run `gateway take-over`."
        )


def take_over(db: DatabaseUrl, machine: str) -> None:
    """From now on `db` holds the sessions of `machine`. Raises `StartRefused` while a gateway works on it."""
    if db.path is not None:
        raise StartRefused(f"{db} is SQLite's: a file has no machine, there is nothing to take over.")
    engine = make_engine(db)
    idle = or_(Deployment.lease_until.is_(None), Deployment.lease_until < func.now())
    try:
        with translated_errors(), engine.begin() as connection:
            taken = connection.execute(update(Deployment).where(idle).values(machine=machine)).rowcount
    finally:
        engine.dispose()
    if not taken:
        raise StartRefused(f"A gateway still works on the database {db}: stop it first.")
