"""The library of LoRAs

Revision: 0025
Follows: 0024
"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

_THERE = sa.text("removed_at IS NULL")


def upgrade() -> None:
    text = sqlmodel.sql.sqltypes.AutoString
    moment = sqlmodel.sql.sqltypes.UTCDateTime
    op.create_table(
        "loras",
        sa.Column("id", text(length=36), nullable=False),
        sa.Column("name", text(length=128), nullable=False),
        sa.Column("owner", text(length=64), nullable=True),
        sa.Column("description", text(length=1000), nullable=False),
        sa.Column("files", sa.JSON(), nullable=False),
        sa.Column("shared", sa.Boolean(), nullable=False),
        sa.Column("shared_with", sa.JSON(), nullable=False),
        sa.Column("created_at", moment(), nullable=False),
        sa.Column("removed_at", moment(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ux_loras_name", "loras", ["name"], unique=True, sqlite_where=_THERE, postgresql_where=_THERE)
    op.create_index("ix_loras_removed", "loras", ["removed_at"])


def downgrade() -> None:
    op.drop_table("loras")
