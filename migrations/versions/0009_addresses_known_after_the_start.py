"""a session's address may be unknown until its host has started it; "cut" becomes "disconnect" """

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# SQLite changes a column by copying the table, and Alembic does not find check constraints by itself.
_CHECKS = (
    sa.CheckConstraint("(status = 'closing') = (end_reason IS NOT NULL)", name="closing_has_a_reason"),
    sa.CheckConstraint("status IN ('pending', 'active', 'closing')", name="status_is_known"),
)


def upgrade() -> None:
    with op.batch_alter_table("sessions", table_args=_CHECKS) as batch_op:
        batch_op.alter_column("address", existing_type=sa.String(length=45), nullable=True)
        batch_op.alter_column("cut_due", new_column_name="disconnect_due", existing_type=sa.Boolean())


def downgrade() -> None:
    op.execute("UPDATE sessions SET address = id WHERE address IS NULL")
    with op.batch_alter_table("sessions", table_args=_CHECKS) as batch_op:
        batch_op.alter_column("disconnect_due", new_column_name="cut_due", existing_type=sa.Boolean())
        batch_op.alter_column("address", existing_type=sa.String(length=45), nullable=False)
