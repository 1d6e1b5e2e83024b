"""Each queued job's line, so that looking at the queue does not grow with it

Revision: 0006
Follows: 0005
"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

from shared.lines import line_of

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "jobs", sa.Column("line", sqlmodel.sql.sqltypes.AutoString(length=24), server_default="", nullable=False)
    )
    _name_lines()


def downgrade() -> None:
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_column("line")


def _name_lines() -> None:
    """Of the jobs that have not ended. What an older process still accepts stands in one line without a name."""
    connection = op.get_bind()
    unended = sa.text(
        "SELECT DISTINCT owner, priority, model_id, warm_key, target_node, mock, min_vram_mb, min_ram_mb"
        " FROM jobs WHERE status IN ('queued', 'paused', 'running')"
    )
    same = sa.text(
        "UPDATE jobs SET line = :line WHERE status IN ('queued', 'paused', 'running') AND priority = :priority"
        " AND warm_key = :warm_key AND mock = :mock AND min_vram_mb = :min_vram_mb AND min_ram_mb = :min_ram_mb"
        " AND coalesce(owner, '') = coalesce(CAST(:owner AS VARCHAR), '')"
        " AND coalesce(model_id, '') = coalesce(CAST(:model_id AS VARCHAR), '')"
        " AND coalesce(target_node, '') = coalesce(CAST(:target_node AS VARCHAR), '')"
    )
    for row in connection.execute(unended).mappings().all():
        line = line_of(**{**row, "mock": bool(row["mock"])})
        connection.execute(same, {**row, "line": line})
