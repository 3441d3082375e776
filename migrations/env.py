"""Runs migrations on the connection that `gateway migrate` hands over, or on the database named by -x db=."""

from alembic import context
from sqlalchemy import Connection

from gateway.database_url import DatabaseUrl
from gateway.domain.models import Base
from gateway.repositories.sql.database import make_engine


def migrate(connection: Connection) -> None:
    """All of it in one transaction: SQLite too can take back DDL, which Alembic does not expect."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    migrate(given)
else:
    db = DatabaseUrl(context.get_x_argument(as_dictionary=True)["db"])
    if db.path is not None:
        db.path.touch(mode=0o600)  # the engine makes no file
    with make_engine(db).begin() as opened:
        migrate(opened)
