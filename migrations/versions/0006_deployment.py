"""the one row that PostgreSQL's gateways share"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    deployment = op.create_table(
        "deployment",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("machine", sa.String(length=96), nullable=True),
        sa.Column("leader", sa.String(length=96), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ticked_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("id = 1", name="one_deployment"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.bulk_insert(deployment, [{"id": 1}])


def downgrade() -> None:
    op.drop_table("deployment")
