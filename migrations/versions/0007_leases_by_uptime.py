"""leases by the uptime, which nobody can set"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sessions", sa.Column("boot", sa.String(length=36), nullable=True))
    op.add_column("sessions", sa.Column("expires_uptime", sa.Double(), nullable=True))


def downgrade() -> None:
    op.drop_column("sessions", "expires_uptime")
    op.drop_column("sessions", "boot")
