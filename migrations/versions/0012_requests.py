"""Which profiles are asked for, refused requests included; filled from the sessions so far."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "requests",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("user_id", sa.String(length=32), nullable=False),
        sa.Column("mig_profile", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_requests_at", "requests", ["at"])
    op.execute(
        "INSERT INTO requests (at, user_id, mig_profile) "
        "SELECT created_at, user_id, mig_profile FROM "
        "(SELECT created_at, user_id, mig_profile FROM ended_sessions "
        "UNION ALL SELECT created_at, user_id, mig_profile FROM sessions) AS latest "
        "ORDER BY created_at"
    )


def downgrade() -> None:
    op.drop_table("requests")
