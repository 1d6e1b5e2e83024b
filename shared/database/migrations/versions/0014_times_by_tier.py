"""The tier of jobs and uses, the work of uses, what a measurement was made with, and devices' compute capability

Revision: 0014
Follows: 0013
"""

import hashlib
import json

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_TIMES = "ix_uses_times"
_MEASURED, _GROUPS = "tier_measurements", "ix_tier_measurements_made_with"


def upgrade() -> None:
    text = sqlmodel.sql.sqltypes.AutoString
    op.add_column("jobs", sa.Column("speed", text(length=16), server_default="exact", nullable=False))
    op.add_column("uses", sa.Column("speed", text(length=16), server_default="exact", nullable=False))
    op.add_column("uses", sa.Column("work", sa.Float(), nullable=True))
    op.add_column("devices", sa.Column("compute_capability", sa.Integer(), nullable=True))
    op.add_column(_MEASURED, sa.Column("made_with", text(length=64), server_default="", nullable=False))
    _fill()
    op.create_index(
        _GROUPS, _MEASURED, ["model_id", "speed", "device_name", "quantization", "made_with", "measured_at"]
    )
    columns = ["warm_key", "speed", "mock", "outcome", "finished_at"]
    if op.get_bind().dialect.name != "postgresql":
        op.create_index(_TIMES, "uses", columns)
        return
    with op.get_context().autocommit_block():  # uses are written meanwhile
        invalid = "SELECT 1 FROM pg_index WHERE indexrelid = to_regclass(:name) AND NOT indisvalid"
        if op.get_bind().execute(sa.text(invalid), {"name": _TIMES}).scalar() is not None:
            op.drop_index(_TIMES, "uses", postgresql_concurrently=True)  # its building was cut off
        op.create_index(_TIMES, "uses", columns, if_not_exists=True, postgresql_concurrently=True)


def downgrade() -> None:
    op.drop_index(_TIMES, "uses")
    op.drop_index(_GROUPS, _MEASURED)
    for table, column in (
        ("devices", "compute_capability"), (_MEASURED, "made_with"), ("uses", "work"), ("uses", "speed"),
        ("jobs", "speed"),
    ):  # fmt: skip
        with op.batch_alter_table(table) as batch:
            batch.drop_column(column)


def _fill() -> None:
    """Compute the digests of the measurements that are there, as `shared/insight/tier_measurements.py` does."""
    table = sa.table(
        _MEASURED, sa.column("id"), sa.column("made_with"),
        sa.column("settings", sa.JSON()), sa.column("libraries", sa.JSON()),
    )  # fmt: skip
    bind = op.get_bind()
    for row in bind.execute(sa.select(table.c.id, table.c.settings, table.c.libraries)).all():
        content = json.dumps([row.settings, row.libraries], sort_keys=True)
        digest = hashlib.sha256(content.encode()).hexdigest()
        bind.execute(sa.update(table).where(table.c.id == row.id).values(made_with=digest))
