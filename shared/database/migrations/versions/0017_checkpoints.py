"""Checkpoints of a generation, after which step it has continued, and how often it was preempted

Revision: 0017
Follows: 0016
"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    text = sqlmodel.sql.sqltypes.AutoString
    op.add_column("jobs", sa.Column("checkpoint_node", text(length=64), nullable=True))
    op.add_column("jobs", sa.Column("checkpoint_step", sa.Integer(), nullable=True))
    op.add_column("jobs", sa.Column("checkpoint_at", sa.Float(), nullable=True))
    op.add_column("jobs", sa.Column("resumed_from_step", sa.Integer(), nullable=True))
    op.add_column("jobs", sa.Column("preempted", sa.Integer(), nullable=False, server_default="0"))


def downgrade() -> None:
    names = ("preempted", "resumed_from_step", "checkpoint_at", "checkpoint_step", "checkpoint_node")
    for name in names:
        with op.batch_alter_table("jobs") as batch:
            batch.drop_column(name)
