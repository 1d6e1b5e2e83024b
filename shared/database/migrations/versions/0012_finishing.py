"""Finishing beside the next job: when an attempt has left its device, and for how long a use has held it

Revision: 0012
Follows: 0011
"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("released_at", sqlmodel.sql.sqltypes.UTCDateTime(), nullable=True))
    op.add_column("uses", sa.Column("device_seconds", sa.Float(), nullable=True))


def downgrade() -> None:
    for table, column in (("uses", "device_seconds"), ("jobs", "released_at")):
        with op.batch_alter_table(table) as batch:
            batch.drop_column(column)
