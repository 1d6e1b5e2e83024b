"""An index of the uses that had to load their model

Revision: 0027
Follows: 0026
"""

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

_COLD = "ix_uses_cold"
_COLUMNS = ["warm_key", "devices", "mock", "outcome", "finished_at"]


def upgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        op.create_index(_COLD, "uses", _COLUMNS, sqlite_where=sa.text("warm IS 0"))
        return
    with op.get_context().autocommit_block():  # uses are written meanwhile
        invalid = "SELECT 1 FROM pg_index WHERE indexrelid = to_regclass(:name) AND NOT indisvalid"
        if op.get_bind().execute(sa.text(invalid), {"name": _COLD}).scalar() is not None:
            op.drop_index(_COLD, "uses", postgresql_concurrently=True)  # its building was cut off
        op.create_index(
            _COLD, "uses", _COLUMNS, if_not_exists=True, postgresql_concurrently=True,
            postgresql_where=sa.text("warm IS false"),
        )  # fmt: skip


def downgrade() -> None:
    op.drop_index(_COLD, "uses")
