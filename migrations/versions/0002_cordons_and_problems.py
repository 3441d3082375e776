"""cordons, borrowed slices, and what is wrong with a session"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "cordons",
        sa.Column("gpu", sa.String(length=96), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("gpu"),
    )
    op.add_column("sessions", sa.Column("borrowed", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("sessions", sa.Column("problem", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("sessions", "problem")
    op.drop_column("sessions", "borrowed")
    op.drop_table("cordons")
