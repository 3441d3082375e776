"""who ended a session and with what words; what proves that a login is of the session's user"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("sessions", "ended_sessions"):
        op.add_column(table, sa.Column("image", sa.String(length=255), nullable=True))
        op.add_column(table, sa.Column("ended_by", sa.String(length=80), nullable=True))
        op.add_column(table, sa.Column("note", sa.Text(), nullable=True))
    op.add_column("ended_sessions", sa.Column("opened_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("ended_sessions", sa.Column("public_keys", sa.JSON(), nullable=False, server_default="[]"))


def downgrade() -> None:
    for name in ("public_keys", "opened_at"):
        op.drop_column("ended_sessions", name)
    for table in ("ended_sessions", "sessions"):
        for name in ("note", "ended_by", "image"):
            op.drop_column(table, name)
