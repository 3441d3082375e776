"""where a session's keys came from, and which connections are to be closed"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "sessions", sa.Column("keys_from", sa.String(length=8), nullable=False, server_default="given")
    )
    op.add_column("sessions", sa.Column("cut_due", sa.Boolean(), nullable=False, server_default=sa.false()))
    # What opened a live session was not on record: keys that are those stored count as stored.
    op.execute(
        "UPDATE sessions SET keys_from = 'stored' WHERE CAST(public_keys AS TEXT) ="
        " (SELECT CAST(users.public_keys AS TEXT) FROM users WHERE users.id = sessions.user_id)"
    )


def downgrade() -> None:
    op.drop_column("sessions", "cut_due")
    op.drop_column("sessions", "keys_from")
