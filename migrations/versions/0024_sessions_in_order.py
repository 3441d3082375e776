"""an index for the pages of live sessions"""

from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("sessions_in_order", "sessions", ["created_at", "id"])


def downgrade() -> None:
    op.drop_index("sessions_in_order", "sessions")
