"""Benchmarks of speed tiers as jobs on a device."""

import hashlib

import anyio.to_thread
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api.access.caller import caller_of
from api.context import Context
from api.http import headers
from api.http.body import read_json
from api.http.responses import json_response
from api.jobs.handlers import ACCEPTED
from api.jobs.node_jobs import accepted
from api.jobs.objects import job_objects
from api.operation import Operation
from api.schemas.jobs.tiers import BenchmarkRequest
from api.services.admission import retry_rules
from api.services.admission.memory_check import needs_of
from shared.catalogue.benchmarks import PROMPTS
from shared.catalogue.job_types import BENCHMARK, BenchmarkParams
from shared.catalogue.resolving import resolve
from shared.jobs.accepting import NewJob
from shared.models.memory_plan import Needs, together
from shared.states import Scope
from wanworks.requests import GenerationRequest


async def create(context: Context, request: Request, query: BaseModel) -> Response:
    key, caller = headers.idempotency_key(request.headers), caller_of(request)
    body = await read_json(request, BenchmarkRequest)

    def make() -> Response:
        digest = hashlib.sha256(f"benchmark {body.model_dump_json()}".encode()).hexdigest()
        new = _new(context, body, key, digest if key is not None else None)
        (one,) = accepted(context, [new], caller)
        extra = {"Location": f"/api/v1/jobs/{one.job.id}", **({"Idempotency-Replayed": "true"} if one.replayed else {})}
        return json_response(job_objects(context, [one.job])[0], 200 if one.replayed else 202, extra)

    return await anyio.to_thread.run_sync(make)


def _new(context: Context, body: BenchmarkRequest, key: str | None, digest: str | None) -> NewJob:
    """Return the job. Raises NotFound; InvalidField for what the model does not support."""
    entry = context.catalogue.get(body.model_id)
    asked = body.model_dump(include={"model_id", "resolution", "frames", "steps", "quantization"})
    # The picture of a model that needs one is made on the device.
    image = "picture" if entry.image == "required" else None
    wanted = resolve(GenerationRequest(prompt=PROMPTS[0], speed="exact", devices_per_job=1, **asked), entry, image)
    tiers = tuple(dict.fromkeys(body.tiers))
    each = [needs_of(entry, wanted.model_copy(update={"speed": speed})) for speed in ("exact", *tiers)]
    needs = together(each)
    vram, ram = Needs.read(needs).least_mb
    params = {**wanted.model_dump(), "image": None, "tiers": tiers, "runs": body.runs}
    return NewJob(
        type=BENCHMARK,
        params=BenchmarkParams.model_validate(params),
        priority=body.priority,
        min_vram_mb=vram,
        min_ram_mb=ram,
        memory_needs=needs,
        idempotency_key=key,
        request_hash=digest,
        **retry_rules.values(context.settings, body),
    )


OPERATIONS = (
    Operation(
        "POST", "/api/v1/jobs/benchmark", create, "createBenchmark",
        "Compare the speed tiers of a model with `exact` on a device",
        answers=ACCEPTED, problems=(400, 404, 413, 415, 503, 507), headers=("Idempotency-Key",),
        body=BenchmarkRequest, scope=Scope.ADMIN,
        description="Runs each tier with the same prompts and seeds. The result is kept, see `modelTiers`.",
    ),
)  # fmt: skip
