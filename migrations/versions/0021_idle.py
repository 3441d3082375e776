"""what a session does, and since when it is idle"""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

_TIMES = ("idle_since", "idle_warned_at", "keep_until")


def upgrade() -> None:
    op.add_column("sessions", sa.Column("signals", sa.JSON(none_as_null=True), nullable=True))
    for name in _TIMES:
        op.add_column("sessions", sa.Column(name, sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    for name in (*_TIMES, "signals"):
        op.drop_column("sessions", name)
