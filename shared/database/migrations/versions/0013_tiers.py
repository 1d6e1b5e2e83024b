"""Measurements of speed tiers

Revision: 0013
Follows: 0010
"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = "0013"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    text = sqlmodel.sql.sqltypes.AutoString
    op.create_table(
        "tier_measurements",
        sa.Column("id", sa.Integer(), primary_key=True, nullable=False),
        sa.Column("job_id", text(length=36), nullable=False),
        sa.Column("model_id", text(length=64), nullable=False),
        sa.Column("speed", text(length=16), nullable=False),
        sa.Column("device_kind", text(length=8), nullable=False),
        sa.Column("device_name", text(length=200), nullable=False),
        sa.Column("quantization", text(length=8), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("frames", sa.Integer(), nullable=False),
        sa.Column("steps", sa.Integer(), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("libraries", sa.JSON(), nullable=False),
        sa.Column("runs", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("exact_seconds", sa.Float(), nullable=False),
        sa.Column("ssim_mean", sa.Float(), nullable=False),
        sa.Column("ssim_min", sa.Float(), nullable=False),
        sa.Column("psnr_mean", sa.Float(), nullable=True),
        sa.Column("psnr_min", sa.Float(), nullable=True),
        sa.Column("measured_at", sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
    )
    op.create_index("ix_tier_measurements_model", "tier_measurements", ["model_id", "measured_at"])
    op.create_index("ix_tier_measurements_job", "tier_measurements", ["job_id"])


def downgrade() -> None:
    op.drop_table("tier_measurements")
