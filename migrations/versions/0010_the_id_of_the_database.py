"""an id of this database, which the containers of its sessions carry"""

import uuid

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("deployment", sa.Column("deployment_id", sa.String(length=36), nullable=True))
    named = sa.text("UPDATE deployment SET deployment_id = :name").bindparams(name=str(uuid.uuid4()))
    op.execute(named)
    with op.batch_alter_table(
        "deployment", table_args=(sa.CheckConstraint("id = 1", name="one_deployment"),)
    ) as batch_op:
        batch_op.alter_column("deployment_id", existing_type=sa.String(length=36), nullable=False)


def downgrade() -> None:
    op.drop_column("deployment", "deployment_id")
