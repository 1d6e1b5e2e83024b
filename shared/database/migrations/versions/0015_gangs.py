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

_GANGS = "ix_jobs_gangs"
_GANG = sa.text("status = 'running' AND devices > 1")


def upgrade() -> None:
    text = sqlmodel.sql.sqltypes.AutoString
    op.add_column("jobs", sa.Column("devices", sa.Integer(), nullable=False, server_default="1"))
    op.add_column("jobs", sa.Column("members", text(length=800), nullable=False, server_default=""))
    op.add_column("uses", sa.Column("devices", sa.Integer(), nullable=False, server_default="1"))
    where = {"sqlite_where": _GANG, "postgresql_where": _GANG}
    if op.get_bind().dialect.name != "postgresql":
        op.create_index(_GANGS, "jobs", ["devices"], **where)
        return
    with op.get_context().autocommit_block():  # jobs are written meanwhile
        invalid = "SELECT 1 FROM pg_index WHERE indexrelid = to_regclass(:name) AND NOT indisvalid"
        if op.get_bind().execute(sa.text(invalid), {"name": _GANGS}).scalar() is not None:
            op.drop_index(_GANGS, "jobs", postgresql_concurrently=True)  # its building was cut off
        op.create_index(_GANGS, "jobs", ["devices"], if_not_exists=True, postgresql_concurrently=True, **where)


def downgrade() -> None:
    op.drop_index(_GANGS, "jobs")
    for table, column in (("uses", "devices"), ("jobs", "members"), ("jobs", "devices")):
        with op.batch_alter_table(table) as batch:
            batch.drop_column(column)
