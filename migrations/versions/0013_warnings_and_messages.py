"""which warnings of the end were given, and an administrator's message"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_NUMBERS = ("warned_for", "warned_level", "hook_for", "signalled_for")


def upgrade() -> None:
    for name in _NUMBERS:
        op.add_column("sessions", sa.Column(name, sa.Integer(), nullable=True))
    op.add_column("sessions", sa.Column("message", sa.Text(), nullable=True))


def downgrade() -> None:
    for name in ("message", *_NUMBERS):
        op.drop_column("sessions", name)
