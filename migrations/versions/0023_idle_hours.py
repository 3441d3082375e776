"""the time for which nobody used sessions, in the usage by day"""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("usage", sa.Column("idle_seconds", sa.BigInteger(), nullable=False, server_default="0"))


def downgrade() -> None:
    op.drop_column("usage", "idle_seconds")
