"""Measurements of devices, and figures of the installation."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Index
from sqlmodel import Field, SQLModel


class Sample(SQLModel, table=True):
    """One measurement of one device. Written by `shared/insight/samples.py` alone; kept for a day."""

    __tablename__ = "samples"
    __table_args__ = (
        Index("ix_samples_device", "device_key", "at"),
        Index("ix_samples_model", "model_id", "at"),
        Index("ix_samples_at", "at"),
    )

    id: int | None = Field(default=None, primary_key=True)
    device_key: str = Field(max_length=96)
    at: datetime
    kind: str = Field(max_length=8)  # cuda: of the GPU, by NVML; cpu: of the worker's processes
    utilization_percent: float | None = None  # of the GPU; of one core for a process, so it may pass 100
    memory_used_mb: float | None = None
    memory_total_mb: float | None = None
    temperature_celsius: float | None = None
    power_watts: float | None = None
    # Uncorrectable memory errors since the driver was loaded.
    ecc_uncorrected: int | None = Field(default=None, sa_type=BigInteger)
    throttle_reasons: str | None = Field(default=None, max_length=200)  # comma-separated; empty: full clock rate
    job_id: str | None = Field(default=None, max_length=36)  # the job that was running
    model_id: str | None = Field(default=None, max_length=64)
    phase: str | None = Field(default=None, max_length=32)


class SampleHour(SQLModel, table=True):
    """A device's samples of one hour under one model, rolled up. Written by `shared/insight/samples.py` alone.

    Each figure has its own sum and count, because a device may not report all figures.
    """

    __tablename__ = "sample_hours"
    __table_args__ = (Index("ix_sample_hours_model", "model_id", "hour"),)

    device_key: str = Field(primary_key=True, max_length=96)
    hour: datetime = Field(primary_key=True)  # its start
    model_id: str = Field(primary_key=True, max_length=64)  # empty: no job was running
    kind: str = Field(max_length=8)
    samples: int
    utilization_sum: float = 0.0
    utilization_count: int = 0
    memory_sum_mb: float = 0.0
    memory_max_mb: float = 0.0
    memory_count: int = 0
    memory_total_mb: float | None = None
    temperature_sum: float = 0.0
    temperature_max: float = 0.0
    temperature_count: int = 0
    power_sum: float = 0.0
    power_count: int = 0


class Snapshot(SQLModel, table=True):
    """The figures of the whole installation at one minute. Written by `shared/insight/snapshots.py` alone."""

    __tablename__ = "snapshots"

    at: datetime = Field(primary_key=True)
    total_models: int
    healthy_models: int
    active_models: int
    total_generations_24h: int
    average_quality_score: float | None = None
    average_performance_score: float | None = None
    system_load_percent: float | None = None
    memory_usage_percent: float | None = None
    alerts_count: int
    recommendations_count: int
    queued_jobs: int
    running_jobs: int
    oldest_queued_seconds: float | None = None
    succeeded_1h: int
    failed_1h: int
    average_generation_seconds: float | None = None  # of the successes of the last hour
    disk_used_percent: float | None = None
    disk_free_gb: float | None = None


class TierMeasurement(SQLModel, table=True):
    """A speed tier compared with `exact` on one device. Written by `shared/insight/tier_measurements.py` alone."""

    __tablename__ = "tier_measurements"
    __table_args__ = (
        Index("ix_tier_measurements_model", "model_id", "measured_at"),
        Index("ix_tier_measurements_job", "job_id"),
        Index(
            "ix_tier_measurements_made_with",
            "model_id",
            "speed",
            "device_name",
            "quantization",
            "made_with",
            "measured_at",
        ),
    )

    id: int | None = Field(default=None, primary_key=True)
    job_id: str = Field(max_length=36)  # the benchmark
    model_id: str = Field(max_length=64)
    speed: str = Field(max_length=16)
    device_kind: str = Field(max_length=8)
    device_name: str = Field(max_length=200)
    quantization: str = Field(max_length=8)
    width: int
    height: int
    frames: int
    steps: int
    settings: dict[str, Any] = Field(sa_type=JSON)  # what the tier used on the device
    libraries: dict[str, str] = Field(sa_type=JSON)  # versions that decide the frames
    made_with: str = Field(default="", max_length=64, sa_column_kwargs={"server_default": ""})  # digest of both
    runs: int  # prompts
    seconds: float  # of one run, without loading and encoding of the file; mean
    exact_seconds: float
    ssim_mean: float  # over all frames
    ssim_min: float
    psnr_mean: float | None = None  # dB, over the frames that differ; None: none does
    psnr_min: float | None = None
    measured_at: datetime
