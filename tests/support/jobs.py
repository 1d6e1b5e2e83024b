"""Jobs for tests: admitted as by the API, and advanced by the functions that workers call."""

from typing import Any

from shared.catalogue import models as catalogue
from shared.catalogue.resolving import resolve
from shared.database.engine import Database
from shared.database.tables import Job
from shared.jobs import accepting, attempts, dispatch
from shared.jobs.accepting import NewJob
from shared.jobs.attempts import Claimant
from shared.management import reductions
from shared.management.reductions import Request
from shared.messaging.progress import RestingRedis
from shared.models import replicas
from shared.models.memory_plan import Needs
from shared.models.replicas import Presence
from shared.states import Priority, ReplicaState
from shared.telemetry.metrics import Meters
from wanworks.requests import GenerationRequest

CLAIMANT = Claimant(node="n", worker="gpu-0@n", device="cpu-0", device_key="n/0")
DEMO = catalogue.load("demo")
UNCOUNTED = Meters(RestingRedis(None))


def new_job(model_id: str = "T2V-A14B", *, prompt: str = "a cat", **values: Any) -> NewJob:
    """Return a job of the demo catalogue: 9 frames of 64x64 in two steps, unless `request` differs."""
    entry = DEMO.get(model_id)
    asked = {"resolution": "64x64", "frames": 9, "steps": 2, **values.pop("request", {})}
    params = resolve(GenerationRequest(model_id=model_id, prompt=prompt, **asked), entry, None)
    image = params.image is not None
    needs = reductions.needs(Request(entry, params.resolution, params.frames, params.quantization, image))
    vram, ram = Needs.read(needs).least_mb
    priority = values.pop("priority", Priority.NORMAL)
    return NewJob("generation", params, priority, min_vram_mb=vram, min_ram_mb=ram, **{"memory_needs": needs, **values})


def hold(database: Database, *models: str, node: str = CLAIMANT.node) -> None:
    """Write what the node's presence scan would: these models are complete there, the others missing."""
    present, missing = Presence(ReplicaState.AVAILABLE, "abc", 1, ()), Presence(ReplicaState.MISSING, None, 0, ())
    found = {model_id: present if model_id in models else missing for model_id in DEMO.model_ids}
    replicas.record(database, node, DEMO, found)


def accepted(database: Database, **values: Any) -> Job:
    (outcome,) = accepting.accept(database, [new_job(**values)])
    assert isinstance(outcome, accepting.Accepted)
    return outcome.job


def claimed(database: Database, job_id: str, claimant: Claimant = CLAIMANT, lease_seconds: float = 60.0) -> Job:
    """Dispatch and claim the job, on a node that holds every model."""
    hold(database, *DEMO.model_ids, node=claimant.node)
    dispatch.mark_dispatched(database, [(job_id, claimant.device_key)])
    job = attempts.claim(database, job_id, claimant, lease_seconds)
    assert job is not None
    return job
