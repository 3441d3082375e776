"""browsers that signed in to the web pages"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "sign_ins",
        sa.Column("hash", sa.String(64), primary_key=True),
        sa.Column("token", sa.String(64), sa.ForeignKey("tokens.name", ondelete="CASCADE"), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_sign_ins_until", "sign_ins", ["until"])


def downgrade() -> None:
    op.drop_table("sign_ins")
