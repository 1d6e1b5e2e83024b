"""More limits of keys, and the back-off that a job's request names

Revision: 0018
Follows: 0017
"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

_RETRIES = sa.text("retry_of IS NOT NULL")


def upgrade() -> None:
    text = sqlmodel.sql.sqltypes.AutoString
    op.add_column("api_keys", sa.Column("running_jobs", sa.Integer(), nullable=True))
    op.add_column("api_keys", sa.Column("gpu_seconds_per_month", sa.Float(), nullable=True))
    op.add_column("api_keys", sa.Column("models", sa.JSON(), nullable=True))
    op.add_column("api_keys", sa.Column("max_resolution", text(length=16), nullable=True))
    op.add_column("api_keys", sa.Column("max_frames", sa.Integer(), nullable=True))
    op.add_column("jobs", sa.Column("retry_backoff_seconds", sa.Float(), nullable=True))
    op.create_index("ix_jobs_retries", "jobs", ["retry_of"], sqlite_where=_RETRIES, postgresql_where=_RETRIES)


def downgrade() -> None:
    op.drop_index("ix_jobs_retries", table_name="jobs")
    with op.batch_alter_table("jobs") as batch:
        batch.drop_column("retry_backoff_seconds")
    for column in ("max_frames", "max_resolution", "models", "gpu_seconds_per_month", "running_jobs"):
        with op.batch_alter_table("api_keys") as batch:
            batch.drop_column(column)
