"""The indexes that looking at the queue and listing jobs need, built while jobs are accepted and run

Revision: 0007
Follows: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_QUEUED = "status = 'queued'"
_NEW = {
    "ix_jobs_line": (["line", "queued_at", "phase"], _QUEUED),
    "ix_jobs_bell": (["bell_device"], f"{_QUEUED} AND bell_device IS NOT NULL"),
    "ix_jobs_kind": (["status", "type", "model_id", "id"], None),
    "ix_jobs_hidden": (["id"], "hidden IS {true}"),
    "ix_jobs_owner_kind": (["owner", "status", "type", "model_id", "id"], "owner IS NOT NULL"),
}
_OLD = {
    "ix_jobs_lines": (
        ["owner", "model_id", "warm_key", "target_node", "mock", "priority", "queued_at"],
        _QUEUED,
    ),
    "ix_jobs_model_id": (["model_id"], None),
}


def upgrade() -> None:
    _replace(_OLD, _NEW)


def downgrade() -> None:
    _replace(_NEW, _OLD)


def _replace(old: dict[str, tuple[list[str], str | None]], new: dict[str, tuple[list[str], str | None]]) -> None:
    """May be repeated: on PostgreSQL what is built beside writers is not undone where the rest fails."""
    if op.get_bind().dialect.name != "postgresql":
        _build(new)
        for name in old:
            op.drop_index(name, "jobs")
        return
    with op.get_context().autocommit_block():
        for name in new:
            _drop_unfinished(name)
        _build(new, if_not_exists=True, postgresql_concurrently=True)
        for name in old:
            op.drop_index(name, "jobs", if_exists=True, postgresql_concurrently=True)


def _build(indexes: dict[str, tuple[list[str], str | None]], **options: bool) -> None:
    for name, (columns, where) in indexes.items():
        true = "true" if op.get_bind().dialect.name == "postgresql" else "1"  # as the queries say it
        condition = None if where is None else sa.text(where.format(true=true))
        op.create_index(name, "jobs", columns, sqlite_where=condition, postgresql_where=condition, **options)


def _drop_unfinished(name: str) -> None:
    """An index whose building was cut off is there, is kept up to date and serves nothing."""
    invalid = "SELECT 1 FROM pg_index WHERE indexrelid = to_regclass(:name) AND NOT indisvalid"
    if op.get_bind().execute(sa.text(invalid), {"name": name}).scalar() is not None:
        op.drop_index(name, "jobs", postgresql_concurrently=True)
