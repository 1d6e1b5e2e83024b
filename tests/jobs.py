"""Jobs for tests: admitted as the API would, and carried through their life by the functions that workers call."""

from typing import Any

from shared import attempts, bells, catalogue, jobs
from shared.attempts import Claimant
from shared.database import Database
from shared.job_types import GenerationRequest, settle
from shared.jobs import NewJob
from shared.states import Priority
from shared.tables import Job

CLAIMANT = Claimant(node="n", worker="gpu-0@n", device="cpu-0", device_key="n/0")
DEMO = catalogue.load("demo")


def new_job(model_id: str = "T2V-A14B", *, prompt: str = "a cat", **values: Any) -> NewJob:
    """A job of the demo catalogue: 9 frames of 64x64 in two steps, unless `request` says otherwise."""
    entry = DEMO.get(model_id)
    asked = {"resolution": "64x64", "frames": 9, "steps": 2, **values.pop("request", {})}
    params = settle(GenerationRequest(model_id=model_id, prompt=prompt, **asked), entry, None)
    vram, ram = entry.needs_mb("none")
    priority = values.pop("priority", Priority.NORMAL)
    return NewJob("generation", params, priority, min_vram_mb=vram, min_ram_mb=ram, **values)


def accepted(database: Database, **values: Any) -> Job:
    (outcome,) = jobs.accept(database, [new_job(**values)])
    assert isinstance(outcome, jobs.Accepted)
    return outcome.job


def claimed(database: Database, job_id: str, claimant: Claimant = CLAIMANT, lease_seconds: float = 60.0) -> Job:
    """Rings and claims."""
    bells.ring(database, [(job_id, claimant.device_key)])
    job = attempts.claim(database, job_id, claimant, lease_seconds)
    assert job is not None
    return job
