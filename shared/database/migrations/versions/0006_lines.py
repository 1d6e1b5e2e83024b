"""Each queued job's line, so that looking at the queue does not grow with it

Revision: 0006
Follows: 0005
"""

import json
from hashlib import blake2b
from typing import Any

import sqlalchemy as sa
import sqlmodel
from alembic import op

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
        connection.execute(same, {**row, "line": _line_of(row)})


def _line_of(row: Any) -> str:
    """Name the line as the code did when this was written: a migration does not change with the code."""
    needs = (row["priority"], row["model_id"], row["warm_key"], row["target_node"], bool(row["mock"]))
    needs += (row["min_vram_mb"], row["min_ram_mb"])
    owner = "" if row["owner"] is None else f"={row['owner']}"
    return _digest(owner, 8) + _digest(json.dumps(needs), 12)


def _digest(text: str, digits: int) -> str:
    return blake2b(text.encode(), digest_size=digits // 2).hexdigest()
