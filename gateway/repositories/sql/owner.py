"""The machine that owns the sessions of a PostgreSQL database.

A gateway on another machine would find none of their containers and close every session.
"""

from collections.abc import Callable

from sqlalchemy import func, or_, select, update

from gateway.database_url import DatabaseUrl
from gateway.domain.models import Deployment
from gateway.errors import StartRefused
from gateway.repositories.sql.database import make_engine, translated_errors


def require_own(db: DatabaseUrl, identify: Callable[[], str]) -> None:
    """Raise `StartRefused` if another machine owns `db`. A database without an owner gets this one."""
    if db.path is not None:
        return  # an SQLite file is on the machine that uses it
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
            "If this machine replaces the other one, run `gateway take-over`."
        )


def take_over(db: DatabaseUrl, machine: str) -> None:
    """Make `machine` the owner of `db`. Raises `StartRefused` while a gateway uses the database."""
    if db.path is not None:
        raise StartRefused(f"{db} is an SQLite database, which needs no take-over: start the gateway.")
    engine = make_engine(db)
    idle = or_(Deployment.lease_until.is_(None), Deployment.lease_until < func.now())
    try:
        with translated_errors(), engine.begin() as connection:
            updated = connection.execute(update(Deployment).where(idle).values(machine=machine)).rowcount
    finally:
        engine.dispose()
    if not updated:
        raise StartRefused(f"A gateway still uses the database {db}: stop it first.")
