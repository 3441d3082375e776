"""policies, and what they need to know about sessions"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "policies",
        sa.Column("name", sa.String(40), primary_key=True),
        sa.Column("rules", sa.JSON(), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.add_column("sessions", sa.Column("max_lease_minutes", sa.Integer(), nullable=True))
    op.add_column("ended_sessions", sa.Column("gpu_share", sa.Double(), nullable=True))


def downgrade() -> None:
    op.drop_column("ended_sessions", "gpu_share")
    op.drop_column("sessions", "max_lease_minutes")
    op.drop_table("policies")
