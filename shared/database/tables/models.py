"""Models' files on nodes, their versions and pins."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Column, false
from sqlmodel import Field, SQLModel


class Replica(SQLModel, table=True):
    """One model's files on one node. Written by `shared/models/replicas.py` alone."""

    __tablename__ = "replicas"

    node: str = Field(primary_key=True, max_length=64)
    model_id: str = Field(primary_key=True, max_length=64)
    state: str = Field(max_length=16)  # of the files; readers combine it with downloads
    repo: str = Field(max_length=200)
    # Of a preset: the model whose files it needs too. All other columns describe its own files, those of its LoRA.
    requires: str | None = Field(default=None, max_length=64)
    revision: str | None = Field(default=None, max_length=64)  # the commit sha
    bytes: int = Field(default=0, sa_type=BigInteger)
    missing_files: list[str] = Field(sa_column=Column(JSON, nullable=False))
    checked_at: datetime  # when the presence of its files was last checked
    verified_at: datetime | None = None  # when their checksums were last verified
    verified_full: bool = False  # whether that read all bytes
    verified_bytes: int = Field(default=0, sa_type=BigInteger)  # found correct
    expected_bytes: int = Field(default=0, sa_type=BigInteger)  # of all files that should exist
    faults: list[dict[str, Any]] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))  # path, type
    prepared: list[str] = Field(
        default_factory=list, sa_column=Column(JSON, nullable=False, server_default="[]")
    )  # the copies that exist, as `component form`
    # Of published weights that were removed after preparing: repairing downloads them again.
    removed_source_bytes: int = Field(default=0, sa_type=BigInteger, sa_column_kwargs={"server_default": "0"})
    # Rises whenever files were found wrong, repaired or removed. Models loaded earlier are then stale.
    generation: int = 0


class ReplicaFile(SQLModel, table=True):
    """One file of a replica as it was last verified. Written by `shared/models/replicas.py` alone."""

    __tablename__ = "replica_files"

    node: str = Field(primary_key=True, max_length=64)
    model_id: str = Field(primary_key=True, max_length=64)
    path: str = Field(primary_key=True, max_length=500)
    revision: str = Field(max_length=64)
    size: int = Field(sa_type=BigInteger)  # expected
    oid: str = Field(max_length=64)  # sha256, or a git blob's sha1
    mtime: float | None = None  # with inode and size it shows whether the file has changed since
    inode: int | None = Field(default=None, sa_type=BigInteger)
    verified_at: datetime | None = None
    fault: str | None = Field(default=None, max_length=32)
    # How a prepared file was made: the recipe's name. None: a published file.
    recipe: str | None = Field(default=None, max_length=64)


class Blob(SQLModel, table=True):
    """One blob or partial blob in a node's cache, from which cleanups are planned.

    Written by `shared/models/replicas.py` alone.
    """

    __tablename__ = "blobs"

    node: str = Field(primary_key=True, max_length=64)
    repo: str = Field(primary_key=True, max_length=200)
    name: str = Field(primary_key=True, max_length=80)  # the oid; of a partial blob with its suffix
    bytes: int = Field(sa_type=BigInteger)
    partial: bool = False
    modified_at: datetime
    revisions: list[str] = Field(sa_column=Column(JSON, nullable=False))  # the snapshots that link to it
    # Whether it belongs to prepared copies alone, so that it can be written again.
    prepared: bool = Field(default=False, sa_column_kwargs={"server_default": false()})
    # Whether another repository has the same file, so that removing one of them frees nothing.
    shared: bool = Field(default=False, sa_column_kwargs={"server_default": false()})


class ModelVersion(SQLModel, table=True):
    """A model's newest commit, as the hub last reported it. Written by `shared/models/replicas.py` alone."""

    __tablename__ = "model_versions"

    model_id: str = Field(primary_key=True, max_length=64)
    latest: str | None = Field(default=None, max_length=64)
    asked_at: datetime  # when the hub was last asked
    answered_at: datetime | None = None  # when it last answered
    failures: int = 0  # in a row


class Pin(SQLModel, table=True):
    """A model that cleanups must keep. Written by `shared/models/replicas.py` alone."""

    __tablename__ = "pins"

    model_id: str = Field(primary_key=True, max_length=64)
    pinned_at: datetime
