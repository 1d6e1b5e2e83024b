"""Several devices for one job: how many it runs on, which they are, and the same of a use

Revision: 0014
Follows: 0013
"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_GANG = sa.text("status = 'running' AND devices > 1")


def upgrade() -> None:
    text = sqlmodel.sql.sqltypes.AutoString
    op.add_column("jobs", sa.Column("devices", sa.Integer(), nullable=False, server_default="1"))
    op.add_column("jobs", sa.Column("members", text(length=800), nullable=False, server_default=""))
    op.add_column("uses", sa.Column("devices", sa.Integer(), nullable=False, server_default="1"))
    with op.get_context().autocommit_block():
        op.create_index(
            "ix_jobs_gangs",
            "jobs",
            ["devices"],
            postgresql_concurrently=True,
            if_not_exists=True,
            sqlite_where=_GANG,
            postgresql_where=_GANG,
        )


def downgrade() -> None:
    op.drop_index("ix_jobs_gangs", "jobs")
    for table, column in (("uses", "devices"), ("jobs", "members"), ("jobs", "devices")):
        with op.batch_alter_table(table) as batch:
            batch.drop_column(column)
