"""the waiting line, what its promises mean for live sessions, and cordons that begin later"""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "waiting",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("user_id", sa.String(32), sa.ForeignKey("users.id"), nullable=False, unique=True),
        sa.Column("mig_profile", sa.String(64), nullable=False),
        sa.Column("image", sa.String(255), nullable=False),
        sa.Column("lease_seconds", sa.Integer(), nullable=False),
        sa.Column("public_keys", sa.JSON(), nullable=False),
        sa.Column("keys_from", sa.String(8), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("wait_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("wait_uptime", sa.Double(), nullable=False),
        sa.Column("boot", sa.String(36), nullable=False),
        sa.Column("gpu", sa.String(96), nullable=True),
        sa.Column("start", sa.Integer(), nullable=True),
        sa.Column("size", sa.Integer(), nullable=True),
        sa.Column("borrowed", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("starts_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("starts_uptime", sa.Double(), nullable=True),
        sa.Column("starts_boot", sa.String(36), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("retry_at", sa.DateTime(timezone=True), nullable=True),
    )
    op.add_column("sessions", sa.Column("latest_end", sa.DateTime(timezone=True), nullable=True))
    op.add_column("sessions", sa.Column("waited_for_by", sa.String(36), nullable=True))
    op.add_column(
        "sessions", sa.Column("is_unclaimed", sa.Boolean(), nullable=False, server_default=sa.false())
    )
    op.add_column("cordons", sa.Column("starts_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.drop_column("cordons", "starts_at")
    for name in ("is_unclaimed", "waited_for_by", "latest_end"):
        op.drop_column("sessions", name)
    op.drop_table("waiting")
