"""usage by day, groups of users, and the share of a GPU that a session holds"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "usage",
        sa.Column("day", sa.Date(), primary_key=True),
        sa.Column("user_id", sa.String(32), primary_key=True),
        sa.Column("user_group", sa.String(32), primary_key=True),
        sa.Column("mig_profile", sa.String(64), primary_key=True),
        sa.Column("sessions", sa.Integer(), nullable=False),
        sa.Column("lease_seconds", sa.BigInteger(), nullable=False),
        sa.Column("gpu_seconds", sa.Double(), nullable=False),
    )
    op.add_column("users", sa.Column("user_group", sa.String(32), nullable=True))
    op.add_column("users", sa.Column("email", sa.String(254), nullable=True))
    op.add_column("sessions", sa.Column("gpu_share", sa.Double(), nullable=True))


def downgrade() -> None:
    op.drop_column("sessions", "gpu_share")
    op.drop_column("users", "email")
    op.drop_column("users", "user_group")
    op.drop_table("usage")
