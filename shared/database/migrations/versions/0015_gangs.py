"""Several devices for one job: how many it runs on, which they are, and the same of a use

Revision: 0015
Follows: 0014
"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    text = sqlmodel.sql.sqltypes.AutoString
    op.add_column("jobs", sa.Column("devices", sa.Integer(), nullable=False, server_default="1"))
    op.add_column("jobs", sa.Column("members", text(length=800), nullable=False, server_default=""))
    op.add_column("uses", sa.Column("devices", sa.Integer(), nullable=False, server_default="1"))


def downgrade() -> None:
    for table, column in (("uses", "devices"), ("jobs", "members"), ("jobs", "devices")):
        with op.batch_alter_table(table) as batch:
            batch.drop_column(column)
