"""Prepared copies of weights: which exist, and which files and blobs belong to them

Revision: 0010
Follows: 0009
"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("replicas", sa.Column("prepared", sa.JSON(), nullable=False, server_default="[]"))
    op.add_column("replicas", sa.Column("removed_source_bytes", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("replica_files", sa.Column("recipe", sqlmodel.sql.sqltypes.AutoString(length=64), nullable=True))
    op.add_column("blobs", sa.Column("prepared", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("blobs", sa.Column("shared", sa.Boolean(), nullable=False, server_default=sa.false()))


def downgrade() -> None:
    for table, columns in {
        "blobs": ("shared", "prepared"),
        "replica_files": ("recipe",),
        "replicas": ("removed_source_bytes", "prepared"),
    }.items():
        with op.batch_alter_table(table) as batch:
            for column in columns:
                batch.drop_column(column)
