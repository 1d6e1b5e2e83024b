"""Finished videos for the gallery, favourites and collections

The videos of before are added by the schedule (`shared/jobs/gallery/filling.py`), so that no upgrade waits for them.

Revision: 0023
Follows: 0022
"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

_INDEXES = {
    "videos": {
        "ix_videos_place": ["place"],
        "ix_videos_model": ["model_id", "place"],
        "ix_videos_size": ["size", "place"],
        "ix_videos_model_size": ["model_id", "size", "place"],
        "ix_videos_owner": ["owner", "place"],
        "ix_videos_owner_model": ["owner", "model_id", "place"],
        "ix_videos_owner_size": ["owner", "size", "place"],
        "ix_videos_owner_model_size": ["owner", "model_id", "size", "place"],
    },
    "video_loras": {"ix_video_loras_name": ["name", "place"], "ix_video_loras_owner": ["owner", "name", "place"]},
    "favourites": {"ix_favourites_job": ["job_id"], "ix_favourites_place": ["holder", "place"]},
    "collected_videos": {
        "ix_collected_videos_job": ["job_id"],
        "ix_collected_videos_place": ["collection_id", "place"],
    },
}


def upgrade() -> None:
    text = sqlmodel.sql.sqltypes.AutoString
    moment = sqlmodel.sql.sqltypes.UTCDateTime

    def job_and_place() -> tuple[sa.Column[str], sa.Column[int]]:
        return sa.Column("job_id", text(length=36), nullable=False), sa.Column("place", sa.BigInteger(), nullable=False)

    op.create_table(
        "videos",
        *job_and_place(),
        sa.Column("owner", text(length=64), nullable=True),
        sa.Column("model_id", text(length=64), nullable=False),
        sa.Column("size", text(length=16), nullable=False),
        sa.Column("prompt", text(), nullable=False),
        sa.PrimaryKeyConstraint("job_id"),
    )
    op.create_table(
        "video_loras",
        *job_and_place(),
        sa.Column("name", text(length=128), nullable=False),
        sa.Column("owner", text(length=64), nullable=True),
        sa.PrimaryKeyConstraint("job_id", "name"),
    )
    op.create_table(
        "favourites",
        sa.Column("holder", text(length=64), nullable=False),
        *job_and_place(),
        sa.PrimaryKeyConstraint("holder", "job_id"),
    )
    op.create_table(
        "collections",
        sa.Column("id", text(length=36), nullable=False),
        sa.Column("holder", text(length=64), nullable=False),
        sa.Column("name", text(length=100), nullable=False),
        sa.Column("created_at", moment(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_collections_name", "collections", ["holder", "name"], unique=True)
    op.create_table(
        "collected_videos",
        sa.Column("collection_id", text(length=36), nullable=False),
        *job_and_place(),
        sa.PrimaryKeyConstraint("collection_id", "job_id"),
    )
    for table, indexes in _INDEXES.items():
        for name, columns in indexes.items():
            op.create_index(name, table, columns)


def downgrade() -> None:
    for table in ("collected_videos", "collections", "favourites", "video_loras", "videos"):
        op.drop_table(table)
