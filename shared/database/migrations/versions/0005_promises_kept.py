"""What the queue needs to keep its promises: since when a job cannot be placed, whom a message goes to, live loops

Revision: 0005
Follows: 0004
"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "loop_reports",
        sa.Column("process", sqlmodel.sql.sqltypes.AutoString(length=160), nullable=False),
        sa.Column("loop", sqlmodel.sql.sqltypes.AutoString(length=64), nullable=False),
        sa.Column("node", sqlmodel.sql.sqltypes.AutoString(length=64), nullable=False),
        sa.Column("every_seconds", sa.Float(), nullable=False),
        sa.Column("seen_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("process", "loop"),
    )
    op.create_index("ix_loop_reports_node", "loop_reports", ["node"])
    op.create_index("ix_audit_entries_actor", "audit_entries", ["actor", "id"])
    op.add_column("ticks", sa.Column("running_until", sa.Float(), nullable=True))
    op.add_column("jobs", sa.Column("unplaceable_since", sa.Float(), nullable=True))
    op.create_index(
        "ix_jobs_order",
        "jobs",
        ["priority", "queued_at"],
        sqlite_where=sa.text("status = 'queued'"),
        postgresql_where=sa.text("status = 'queued'"),
    )
    op.create_index(
        "ix_jobs_lines",
        "jobs",
        ["owner", "model_id", "warm_key", "target_node", "mock", "priority", "queued_at"],
        sqlite_where=sa.text("status = 'queued'"),
        postgresql_where=sa.text("status = 'queued'"),
    )
    op.drop_index("ix_jobs_owner_queued", "jobs")
    op.drop_index("ix_jobs_waiting", "jobs")
    op.add_column(
        "webhook_messages",
        sa.Column("receiver", sqlmodel.sql.sqltypes.AutoString(length=261), server_default="", nullable=False),
    )
    op.drop_index("ix_webhook_messages_due", "webhook_messages")
    op.create_index("ix_webhook_messages_due", "webhook_messages", ["due_at", "receiver"])


def downgrade() -> None:
    op.drop_index("ix_webhook_messages_due", "webhook_messages")
    op.create_index("ix_webhook_messages_due", "webhook_messages", ["due_at"])
    with op.batch_alter_table("webhook_messages", schema=None) as batch_op:
        batch_op.drop_column("receiver")
    op.create_index("ix_jobs_waiting", "jobs", ["status", "model_id", "priority", "queued_at"])
    op.create_index(
        "ix_jobs_owner_queued",
        "jobs",
        ["owner", "model_id", "priority", "queued_at"],
        sqlite_where=sa.text("owner IS NOT NULL AND status = 'queued'"),
        postgresql_where=sa.text("owner IS NOT NULL AND status = 'queued'"),
    )
    op.drop_index("ix_jobs_lines", "jobs")
    op.drop_index(
        "ix_jobs_order",
        "jobs",
        sqlite_where=sa.text("status = 'queued'"),
        postgresql_where=sa.text("status = 'queued'"),
    )
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_column("unplaceable_since")
    with op.batch_alter_table("ticks", schema=None) as batch_op:
        batch_op.drop_column("running_until")
    op.drop_index("ix_audit_entries_actor", "audit_entries")
    op.drop_index("ix_loop_reports_node", "loop_reports")
    op.drop_table("loop_reports")
