"""Flows: jobs that depend on one another, submitted together."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Column, Index, false, text, true
from sqlmodel import Field, SQLModel

_OWNED = text("owner IS NOT NULL")
_STARTING = text("state = 'queued'")


class Flow(SQLModel, table=True):
    """One flow. Written by `shared/jobs/flows`; `shared/jobs/ending/flow_marks.py` removes it with its last job."""

    __tablename__ = "flows"
    __table_args__ = (
        Index("ix_flows_state", "state", "id"),
        Index("ix_flows_owner", "owner", "id", sqlite_where=_OWNED, postgresql_where=_OWNED),
        Index("ix_flows_owner_state", "owner", "state", "id", sqlite_where=_OWNED, postgresql_where=_OWNED),
    )

    id: str = Field(primary_key=True, max_length=36)  # a UUIDv7: sorts by creation
    owner: str | None = Field(default=None, max_length=64)  # id of the API key that submitted it
    name: str | None = Field(default=None, max_length=100)
    state: str = Field(max_length=16)  # queued, running, succeeded, failed or cancelled
    labels: dict[str, str] = Field(sa_column=Column("metadata", JSON, nullable=False))
    webhook_url: str | None = Field(default=None, max_length=2000)  # receives one message at each end
    idempotency_key: str | None = Field(default=None, max_length=255, unique=True)
    request_hash: str | None = Field(default=None, max_length=64)
    retries: int = Field(default=0, sa_column_kwargs={"server_default": "0"})  # how often it was retried
    created_at: datetime
    started_at: datetime | None = None  # when its first job was seen running
    finished_at: datetime | None = None  # when its last job had ended; None while one has not
    cancel_at: float | None = None  # when cancelling was requested, by the database's clock


class FlowNode(SQLModel, table=True):
    """One job of a flow, by its name. `outcome` is written with the job's end, all else by `shared/jobs/flows`."""

    __tablename__ = "flow_nodes"
    __table_args__ = (
        Index("ix_flow_nodes_job", "job_id", unique=True),
        # The ends that have not been followed yet.
        Index(
            "ix_flow_nodes_unsettled",
            "flow_id",
            sqlite_where=text("settled IS 0"),
            postgresql_where=text("settled IS false"),
        ),
    )

    flow_id: str = Field(primary_key=True, max_length=36)
    position: int = Field(primary_key=True)  # in the request
    name: str = Field(max_length=64)
    job_id: str = Field(max_length=36)  # the latest job: a retry of the flow replaces it
    earlier_jobs: list[str] = Field(sa_column=Column(JSON, nullable=False))  # that a retry has replaced, oldest first
    depends_on: list[str] = Field(sa_column=Column(JSON, nullable=False))  # names
    frame_of: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON, nullable=True))  # its input picture
    # The picture with which its video ends.
    last_frame_of: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON, nullable=True))
    on_failure: str = Field(max_length=16)  # skip or continue: what its dependants do
    released: bool = Field(default=False, sa_column_kwargs={"server_default": false()})  # its job may start
    outcome: str | None = Field(default=None, max_length=16)  # succeeded, failed, cancelled or skipped
    settled: bool = Field(default=True, sa_column_kwargs={"server_default": true()})  # whether its end was followed

    @property
    def frames_taken(self) -> dict[str, dict[str, Any]]:
        """Return the frames of other jobs that are its pictures, by the field of its parameters."""
        taken = {"image": self.frame_of, "last_image": self.last_frame_of}
        return {field: frame for field, frame in taken.items() if frame is not None}
