"""the length of a lease, its extensions, and when the session was opened"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("lease_seconds", "extended_minutes"):
        op.add_column("sessions", sa.Column(name, sa.Integer(), nullable=False, server_default="0"))
    op.add_column("sessions", sa.Column("opened_at", sa.DateTime(timezone=True), nullable=True))
    _fill_lengths()


def downgrade() -> None:
    for name in ("opened_at", "extended_minutes", "lease_seconds"):
        op.drop_column("sessions", name)


def _fill_lengths() -> None:
    """A lease that was never extended lasts from the creation of its session to its end."""
    sessions = sa.table(
        "sessions",
        sa.column("id", sa.String()),
        sa.column("created_at", sa.DateTime(timezone=True)),
        sa.column("expires_at", sa.DateTime(timezone=True)),
        sa.column("lease_seconds", sa.Integer()),
    )
    connection = op.get_bind()
    for id, created_at, expires_at in connection.execute(
        sa.select(sessions.c.id, sessions.c.created_at, sessions.c.expires_at)
    ).all():
        seconds = round((expires_at - created_at).total_seconds())
        connection.execute(sa.update(sessions).where(sessions.c.id == id).values(lease_seconds=seconds))
