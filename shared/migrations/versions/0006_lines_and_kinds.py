"""Lines of the queue and kinds of jobs, so that no look and no list takes longer where there are more

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

_QUEUED = sa.text("status = 'queued'")
_RUNG = sa.text("status = 'queued' AND bell_device IS NOT NULL")
_OWNED = sa.text("owner IS NOT NULL")


def upgrade() -> None:
    op.add_column(
        "jobs", sa.Column("line", sqlmodel.sql.sqltypes.AutoString(length=24), server_default="", nullable=False)
    )
    _name_lines()
    _index("ix_jobs_line", ["line", "queued_at"], _QUEUED)
    _index("ix_jobs_bell", ["bell_device"], _RUNG)
    _index("ix_jobs_kind", ["status", "type", "model_id", "id"])
    _index("ix_jobs_owner_kind", ["owner", "status", "type", "model_id", "id"], _OWNED)
    op.drop_index("ix_jobs_lines", "jobs")
    op.drop_index("ix_jobs_model_id", "jobs")


def downgrade() -> None:
    _index(
        "ix_jobs_lines",
        ["owner", "model_id", "warm_key", "target_node", "mock", "priority", "queued_at"],
        _QUEUED,
    )
    _index("ix_jobs_model_id", ["model_id"])
    op.drop_index("ix_jobs_owner_kind", "jobs")
    op.drop_index("ix_jobs_kind", "jobs")
    op.drop_index("ix_jobs_bell", "jobs")
    op.drop_index("ix_jobs_line", "jobs")
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_column("line")


def _index(name: str, columns: list[str], where: sa.TextClause | None = None) -> None:
    op.create_index(name, "jobs", columns, sqlite_where=where, postgresql_where=where)


def _name_lines() -> None:
    """Of the jobs that wait; one that is not named yet stands in a line of its own with all such, and is served too."""
    connection = op.get_bind()
    waiting = sa.text(
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
    for row in connection.execute(waiting).mappings().all():
        line = line_of(**{**row, "mock": bool(row["mock"])})
        connection.execute(same, {**row, "line": line})
