"""Batches of jobs

Revision: 0022
Follows: 0021
"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

_OWNED = sa.text("owner IS NOT NULL")
_OPEN = sa.text("finished_at IS NULL")
_BATCHED = sa.text("batch_id IS NOT NULL")
_INDEX = "ix_jobs_batch"


def upgrade() -> None:
    text = sqlmodel.sql.sqltypes.AutoString
    moment = sqlmodel.sql.sqltypes.UTCDateTime
    op.create_table(
        "batches",
        sa.Column("id", text(length=36), nullable=False),
        sa.Column("owner", text(length=64), nullable=True),
        sa.Column("name", text(length=200), nullable=False),
        sa.Column("webhook_url", text(length=2000), nullable=True),
        sa.Column("idempotency_key", text(length=255), nullable=True),
        sa.Column("request_hash", text(length=64), nullable=True),
        sa.Column("created_at", moment(), nullable=False),
        sa.Column("cancel_at", moment(), nullable=True),
        sa.Column("finished_at", moment(), nullable=True),
        *(
            sa.Column(name, sa.Integer(), nullable=False)
            for name in ("total", "unended", "succeeded", "failed", "cancelled")
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("idempotency_key"),
    )
    op.create_index("ix_batches_owner", "batches", ["owner", "id"], sqlite_where=_OWNED, postgresql_where=_OWNED)
    op.create_index("ix_batches_open", "batches", ["id"], sqlite_where=_OPEN, postgresql_where=_OPEN)
    op.add_column("jobs", sa.Column("batch_id", text(length=36), nullable=True))
    columns = ["batch_id", "status", "id"]
    if op.get_bind().dialect.name != "postgresql":
        op.create_index(_INDEX, "jobs", columns, sqlite_where=_BATCHED)
        return
    with op.get_context().autocommit_block():  # built without blocking those who write jobs
        invalid = "SELECT 1 FROM pg_index WHERE indexrelid = to_regclass(:name) AND NOT indisvalid"
        if op.get_bind().execute(sa.text(invalid), {"name": _INDEX}).scalar() is not None:
            op.drop_index(_INDEX, "jobs", postgresql_concurrently=True)  # its building was cut off
        op.create_index(
            _INDEX, "jobs", columns, postgresql_where=_BATCHED, if_not_exists=True, postgresql_concurrently=True
        )


def downgrade() -> None:
    op.drop_index(_INDEX, "jobs")
    with op.batch_alter_table("jobs") as batch:
        batch.drop_column("batch_id")
    op.drop_table("batches")
