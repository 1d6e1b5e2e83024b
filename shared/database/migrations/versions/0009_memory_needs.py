"""What each job needs in memory under every layout, the memory of each node's host, and who must release some

Revision: 0009
Follows: 0008
"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "jobs",
        sa.Column("memory_needs", sqlmodel.sql.sqltypes.AutoString(length=160), server_default="", nullable=False),
    )
    op.add_column("nodes", sa.Column("memory_mb", sa.Integer(), nullable=True))
    op.add_column("devices", sa.Column("must_release", sa.Boolean(), server_default=sa.false(), nullable=False))


def downgrade() -> None:
    for table, column in (("devices", "must_release"), ("nodes", "memory_mb"), ("jobs", "memory_needs")):
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.drop_column(column)
