"""the id of the image that a session runs on"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sessions", sa.Column("image_id", sa.String(255), nullable=True))


def downgrade() -> None:
    op.drop_column("sessions", "image_id")
