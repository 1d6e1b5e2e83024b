"""The gallery: finished videos in a narrow table, favourites, and collections.

A video's `place` is when it was finished, as a number that sorts (`shared/jobs/ending/videos.py`). The other tables
repeat it, so that each of them is in order in its own index.
"""

from datetime import datetime

from sqlalchemy import BigInteger, Index
from sqlmodel import Field, SQLModel


class Video(SQLModel, table=True):
    """One finished video that is not deleted. Written by `shared/jobs/ending/videos.py` alone.

    The rows of jobs have some ten KB each, so to search their prompts would read a hundred times as much.
    """

    __tablename__ = "videos"
    __table_args__ = (
        # One index for each set of filters, so that any of them finds its videos in order, whatever it excludes.
        Index("ix_videos_place", "place"),
        Index("ix_videos_model", "model_id", "place"),
        Index("ix_videos_size", "size", "place"),
        Index("ix_videos_model_size", "model_id", "size", "place"),
        Index("ix_videos_owner", "owner", "place"),
        Index("ix_videos_owner_model", "owner", "model_id", "place"),
        Index("ix_videos_owner_size", "owner", "size", "place"),
        Index("ix_videos_owner_model_size", "owner", "model_id", "size", "place"),
    )

    job_id: str = Field(primary_key=True, max_length=36)
    place: int = Field(sa_type=BigInteger)
    owner: str | None = Field(default=None, max_length=64)  # id of the API key that submitted it
    model_id: str = Field(max_length=64)
    size: str = Field(max_length=16)  # as WIDTHxHEIGHT
    prompt: str  # folded, for the search


class VideoLora(SQLModel, table=True):
    """One LoRA of a finished video. Written by `shared/jobs/ending/videos.py` alone."""

    __tablename__ = "video_loras"
    __table_args__ = (
        Index("ix_video_loras_name", "name", "place"),
        Index("ix_video_loras_owner", "owner", "name", "place"),
    )

    job_id: str = Field(primary_key=True, max_length=36)
    name: str = Field(primary_key=True, max_length=128)
    place: int = Field(sa_type=BigInteger)
    owner: str | None = Field(default=None, max_length=64)  # as of its video


class Favourite(SQLModel, table=True):
    """A video that somebody has marked. Written by `shared/jobs/gallery/favourites.py`; gone with its job."""

    __tablename__ = "favourites"
    __table_args__ = (
        Index("ix_favourites_job", "job_id"),
        Index("ix_favourites_place", "holder", "place"),
    )

    holder: str = Field(primary_key=True, max_length=64)  # id of the API key; empty: the local user
    job_id: str = Field(primary_key=True, max_length=36)
    place: int = Field(sa_type=BigInteger)


class Collection(SQLModel, table=True):
    """A named set of videos of one holder. Written by `shared/jobs/gallery/collections.py` alone."""

    __tablename__ = "collections"
    __table_args__ = (Index("ix_collections_name", "holder", "name", unique=True),)

    id: str = Field(primary_key=True, max_length=36)  # a UUIDv7
    holder: str = Field(max_length=64)  # as of a favourite
    name: str = Field(max_length=100)
    created_at: datetime


class CollectedVideo(SQLModel, table=True):
    """A video in a collection. Written by `shared/jobs/gallery/collections.py`; gone with its job."""

    __tablename__ = "collected_videos"
    __table_args__ = (
        Index("ix_collected_videos_job", "job_id"),
        Index("ix_collected_videos_place", "collection_id", "place"),
    )

    collection_id: str = Field(primary_key=True, max_length=36)
    job_id: str = Field(primary_key=True, max_length=36)
    place: int = Field(sa_type=BigInteger)
