"""The daily window in which a key's jobs of low priority start, and uses that continued from a checkpoint

Revision: 0021
Follows: 0020
"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    text = sqlmodel.sql.sqltypes.AutoString
    op.add_column("uses", sa.Column("resumed_from_step", sa.Integer(), nullable=True))
    op.add_column("api_keys", sa.Column("low_priority_window", text(length=80), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("uses") as batch:
        batch.drop_column("resumed_from_step")
    with op.batch_alter_table("api_keys") as batch:
        batch.drop_column("low_priority_window")
