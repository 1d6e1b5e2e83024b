"""Flows: jobs that depend on one another

Revision: 0019
Follows: 0018
"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

_OWNED = sa.text("owner IS NOT NULL")
_OF_FLOWS = sa.text("flow_id IS NOT NULL")


def upgrade() -> None:
    text, moment = sqlmodel.sql.sqltypes.AutoString, sqlmodel.sql.sqltypes.UTCDateTime
    op.create_table(
        "flows",
        sa.Column("id", text(length=36), nullable=False),
        sa.Column("owner", text(length=64), nullable=True),
        sa.Column("name", text(length=100), nullable=True),
        sa.Column("state", text(length=16), nullable=False),
        sa.Column("metadata", sa.JSON(), nullable=False),
        sa.Column("webhook_url", text(length=2000), nullable=True),
        sa.Column("idempotency_key", text(length=255), nullable=True),
        sa.Column("request_hash", text(length=64), nullable=True),
        sa.Column("retries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("created_at", moment(), nullable=False),
        sa.Column("started_at", moment(), nullable=True),
        sa.Column("finished_at", moment(), nullable=True),
        sa.Column("cancel_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("idempotency_key"),
    )
    op.create_index("ix_flows_state", "flows", ["state", "id"])
    op.create_index("ix_flows_owner", "flows", ["owner", "id"], sqlite_where=_OWNED, postgresql_where=_OWNED)
    op.create_index(
        "ix_flows_owner_state", "flows", ["owner", "state", "id"], sqlite_where=_OWNED, postgresql_where=_OWNED
    )
    op.create_table(
        "flow_nodes",
        sa.Column("flow_id", text(length=36), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("name", text(length=64), nullable=False),
        sa.Column("job_id", text(length=36), nullable=False),
        sa.Column("earlier_jobs", sa.JSON(), nullable=False),
        sa.Column("depends_on", sa.JSON(), nullable=False),
        sa.Column("frame_of", sa.JSON(), nullable=True),
        sa.Column("on_failure", text(length=16), nullable=False),
        sa.Column("released", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("outcome", text(length=16), nullable=True),
        sa.Column("settled", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.PrimaryKeyConstraint("flow_id", "position"),
    )
    op.create_index("ix_flow_nodes_job", "flow_nodes", ["job_id"], unique=True)
    op.create_index(
        "ix_flow_nodes_unsettled",
        "flow_nodes",
        ["flow_id"],
        sqlite_where=sa.text("settled IS 0"),
        postgresql_where=sa.text("settled IS false"),
    )
    op.add_column("jobs", sa.Column("flow_id", text(length=36), nullable=True))
    _index("ix_jobs_flow", ["flow_id"], _OF_FLOWS)


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
    op.drop_index("ix_jobs_flow", "jobs")
    with op.batch_alter_table("jobs") as batch:
        batch.drop_column("flow_id")
    op.drop_table("flow_nodes")
    op.drop_table("flows")
