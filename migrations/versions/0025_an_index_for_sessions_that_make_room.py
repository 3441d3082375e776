"""an index for the few live sessions whose extensions are limited"""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    limited = sa.text("latest_end IS NOT NULL")
    op.create_index(
        "sessions_that_make_room", "sessions", ["latest_end"], postgresql_where=limited, sqlite_where=limited
    )


def downgrade() -> None:
    op.drop_index("sessions_that_make_room", "sessions")
