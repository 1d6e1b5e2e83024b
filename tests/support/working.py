"""Act as a worker through the functions that a real worker calls."""

import hashlib
from typing import Any

from shared.database.engine import Database
from shared.database.tables import Job
from shared.jobs import attempts, dispatch
from shared.jobs.attempts import Claimant
from shared.messaging.progress import Progress, RestingRedis
from shared.storage.store import Store
from tests.support.jobs import DEMO, hold

QUALITY: dict[str, Any] = {
    "score": 0.75,
    "checks": dict.fromkeys(
        ("decodable", "size", "frame_count", "frame_rate", "finite", "not_black", "not_flat", "not_frozen"), True
    ),
    "measures": {"luma": 120.0, "contrast": 40.0, "sharpness": 0.02, "frozen_share": 0.0, "flicker": 0.005},
}

HERE = Claimant(node="here", worker="gpu-0@here", device="cpu-0", device_key="here/0")


def claim(database: Database, job_id: str) -> Job:
    """Dispatch and claim the job, on a node that holds every model."""
    hold(database, *DEMO.model_ids, node=HERE.node)
    dispatch.mark_dispatched(database, [(job_id, HERE.device_key)])
    job = attempts.claim(database, job_id, HERE, lease_seconds=60)
    assert job is not None
    return job


def report(redis_url: str, job_id: str, attempt: int, percent: float, **more: Any) -> None:
    event = {"kind": "progress", "attempt": attempt, "phase": "denoising", "percent": percent, **more}
    Progress(RestingRedis(redis_url, timeout=5)).report(job_id, event)


def publish(redis_url: str, job: Job) -> None:
    """Publish the job's state."""
    event = {"kind": "state", "attempt": job.attempt, "status": str(job.status)}
    Progress(RestingRedis(redis_url, timeout=5)).report(job.id, event)


def make(store: Store, job: Job, files: dict[str, bytes]) -> list[dict[str, Any]]:
    """Write artifacts of the job's attempt. Return their description in the result."""
    folder = store.attempt_dir(job.id, job.attempt)
    kinds = {
        "mp4": ("video", "video/mp4"),
        "jpg": ("thumbnail", "image/jpeg"),
        "json": ("manifest", "application/json"),
    }
    described = []
    for name, content in files.items():
        (folder / name).write_bytes(content)
        kind, content_type = kinds[name.rpartition(".")[2]]
        digest = hashlib.sha256(content).hexdigest()
        described.append(
            {"name": name, "kind": kind, "bytes": len(content), "sha256": digest, "content_type": content_type}
        )
    store.keep(job.id, job.attempt, list(files), lambda: None, lambda: None)
    return described


def finish(database: Database, job: Job, artifacts: list[dict[str, Any]]) -> Job:
    """Succeed as a worker does, with a complete result."""
    result = {
        "artifacts": artifacts,
        "width": 64,
        "height": 64,
        "frames": 9,
        "fps": 8,
        "duration_seconds": 1.125,
        "seed": job.params["seed"],
        "timings": {"loading": 0.5, "denoising": 1.0},
        "peak_vram_mb": None,
        "quality": QUALITY,
        "warm": False,
        "profile": "full",
        "device_name": "CPU",
        "mock": False,
        "notes": [],
        "manifest": {"repo": "wanworks-demo/T2V-A14B"},
    }
    return attempts.succeed(database, job.id, job.attempt, result)
