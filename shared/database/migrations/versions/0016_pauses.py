"""Pauses, and jobs that start later: not before or not after a time, or before all others

Revision: 0016
Follows: 0015
"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_OPEN = sa.text("ended_at IS NULL")
_HELD = sa.text("status = 'queued' AND held IS NOT NULL")
_EXPIRING = sa.text("status = 'queued' AND start_before IS NOT NULL")


def upgrade() -> None:
    text = sqlmodel.sql.sqltypes.AutoString
    op.create_table(
        "pauses",
        sa.Column("id", text(length=36), nullable=False),
        sa.Column("kind", text(length=16), nullable=False),
        sa.Column("value", text(length=96), nullable=False),
        sa.Column("reason", text(length=500), nullable=False),
        sa.Column("running", text(length=8), nullable=False),
        sa.Column("created_at", sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
        sa.Column("created_by", text(length=64), nullable=False),
        sa.Column("until", sa.Float(), nullable=True),
        sa.Column("ended_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "ix_pauses_open", "pauses", ["kind", "value"], unique=True, sqlite_where=_OPEN, postgresql_where=_OPEN
    )
    op.create_index("ix_pauses_ended", "pauses", ["ended_at"])
    for column in (
        sa.Column("held", text(length=16), nullable=True),
        sa.Column("start_after", sa.Float(), nullable=True),
        sa.Column("start_before", sa.Float(), nullable=True),
        sa.Column("front_at", sa.Float(), nullable=True),
    ):
        op.add_column("jobs", column)
    _index("ix_jobs_held", ["held", "queued_at"], _HELD)
    _index("ix_jobs_expiring", ["start_before"], _EXPIRING)


def _index(name: str, columns: list[str], where: sa.TextClause) -> None:
    """Build an index of jobs without blocking those who write them."""
    if op.get_bind().dialect.name != "postgresql":
        op.create_index(name, "jobs", columns, sqlite_where=where)
        return
    with op.get_context().autocommit_block():
        invalid = "SELECT 1 FROM pg_index WHERE indexrelid = to_regclass(:name) AND NOT indisvalid"
        if op.get_bind().execute(sa.text(invalid), {"name": name}).scalar() is not None:
            op.drop_index(name, "jobs", postgresql_concurrently=True)  # its building was cut off
        op.create_index(name, "jobs", columns, postgresql_where=where, if_not_exists=True, postgresql_concurrently=True)


def downgrade() -> None:
    op.drop_index("ix_jobs_expiring", "jobs")
    op.drop_index("ix_jobs_held", "jobs")
    with op.batch_alter_table("jobs") as batch:
        for column in ("front_at", "start_before", "start_after", "held"):
            batch.drop_column(column)
    op.drop_table("pauses")
