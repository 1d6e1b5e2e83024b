"""Faults of devices, their quarantine, and what the driver reports about a device's health

Revision: 0008
Follows: 0007
"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_OPEN = sa.text("cleared_at IS NULL")


def _text(length: int) -> sqlmodel.sql.sqltypes.AutoString:
    return sqlmodel.sql.sqltypes.AutoString(length=length)


def upgrade() -> None:
    op.create_table(
        "device_faults",
        sa.Column("id", _text(36), nullable=False),
        sa.Column("node", _text(64), nullable=False),
        sa.Column("uuid", _text(96), nullable=False),
        sa.Column("device_key", _text(96), nullable=False),
        sa.Column("job_id", _text(36), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=True),
        sa.Column("pid", sa.Integer(), nullable=True),
        sa.Column("kind", _text(32), nullable=False),
        sa.Column("detail", _text(300), nullable=False),
        sa.Column("at", sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
        sa.Column("cleared_at", sqlmodel.sql.sqltypes.UTCDateTime(), nullable=True),
        sa.Column("quarantine_reason", _text(300), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "ix_device_faults_open", "device_faults", ["node", "uuid"], sqlite_where=_OPEN, postgresql_where=_OPEN
    )
    op.create_index("ix_device_faults_job", "device_faults", ["job_id"])
    op.add_column("devices", sa.Column("quarantined_at", sqlmodel.sql.sqltypes.UTCDateTime(), nullable=True))
    op.add_column("devices", sa.Column("quarantine_reason", _text(300), nullable=True))
    op.add_column("jobs", sa.Column("avoid_device", _text(96), nullable=True))
    op.add_column("samples", sa.Column("ecc_uncorrected", sa.BigInteger(), nullable=True))
    op.add_column("samples", sa.Column("throttle_reasons", _text(200), nullable=True))


def downgrade() -> None:
    for table, column in (
        ("samples", "throttle_reasons"),
        ("samples", "ecc_uncorrected"),
        ("jobs", "avoid_device"),
        ("devices", "quarantine_reason"),
        ("devices", "quarantined_at"),
    ):
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.drop_column(column)
    op.drop_index("ix_device_faults_job", "device_faults")
    op.drop_index("ix_device_faults_open", "device_faults")
    op.drop_table("device_faults")
