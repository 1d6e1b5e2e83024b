"""What accepting a generation would return and cost. Reads only; shows data of the caller, and counts."""

from collections.abc import Sequence
from math import inf

from api.access.caller import Caller
from api.context import Context
from api.jobs.views import settled_params
from api.schemas.jobs.dry_run import Cost, DryRun, LimitUse, MemoryLayout, MemoryNeeds, Start
from api.services import estimates
from api.services.admission import gpu_limits
from api.services.estimates import Estimate, Wanted
from shared import clock
from shared.catalogue.job_types import GenerationParams
from shared.forecast.forecasts import Forecast
from shared.jobs import batches
from shared.jobs.accepting import NewJob
from shared.jobs.reading import queues
from shared.models.memory_plan import Needs
from shared.states import REPLICA_READY


def outcome(context: Context, jobs: Sequence[NewJob], caller: Caller) -> DryRun:
    """Return the outcome for one admitted job, or for all of a request. Raises LimitReached as accepting it would."""
    jobs = [caller.owning(one) for one in jobs]
    new = jobs[0]
    uses = gpu_limits.uses(context.database, caller.limits, new.owner)
    gpu_limits.check_room(uses)
    if len(jobs) > 1:
        gpu_limits.check_several(context.database, caller.limits, jobs)
        for use in uses:
            if use.name == "queued_jobs" and use.allowed - use.used < len(jobs):
                raise batches.no_room(int(use.allowed), int(use.allowed - use.used), len(jobs))
    params = new.params
    assert isinstance(params, GenerationParams)
    memory = None if new.mock else _memory(context, new)
    cost, expected, ready = _times(context, jobs, params, memory)
    by_priority = queues.queued_by_priority(context.database)
    return DryRun(
        count=len(jobs),
        model_id=params.model_id,
        priority=new.priority,
        mock=new.mock,
        params=settled_params(params.model_dump(mode="json")),
        fallback_applied=list(params.fallback_applied),
        max_attempts=new.max_failures,
        retry_backoff_seconds=new.retry_backoff_seconds,
        metadata=new.metadata,
        model_ready=ready,
        queue_position=sum(count for rank, count in by_priority.items() if rank <= new.priority.rank),
        cost=cost,
        expected=expected,
        memory=memory,
        limits=[
            LimitUse(
                name=use.name,
                allowed=use.allowed,
                used=round(use.used, 3),
                expected=round(use.expected, 3),
                resets_at=clock.iso(use.resets_at),
            )
            for use in uses
        ],
    )


def _memory(context: Context, new: NewJob) -> MemoryNeeds:
    needs = Needs.read(new.memory_needs)
    fitting = [host for host in context.hosts.seen().devices if host.fits(needs)]
    return MemoryNeeds(
        layouts=[MemoryLayout(device_mb=device, host_mb=host) for device, host in needs.cuda],
        cpu_host_mb=needs.cpu,
        fitting_devices=len(fitting),
        open_devices=sum(host.open for host in fitting),
    )


def _times(
    context: Context, jobs: Sequence[NewJob], params: GenerationParams, memory: MemoryNeeds | None
) -> tuple[Cost, Start, bool]:
    library = context.library()
    wanted = Wanted(
        params.model_id,
        params.weights_id or params.model_id,
        params.quantization,
        params.speed,
        params.work,
        params.volume,
        params.devices_per_job,
    )
    found = estimates.estimate(context.database, library, wanted)
    ready = library.models[params.model_id].availability in REPLICA_READY
    if memory is None:
        cost = Cost(
            gpu_seconds=0,
            generation_seconds=None,
            loading_seconds=0,
            samples=0,
            how="Placeholder output uses no model.",
        )
        return cost, Start(start_at=None, end_at=None, how="Placeholder output is not estimated."), ready
    seconds = found.device_seconds(params.devices_per_job, len(jobs))
    cost = Cost(
        gpu_seconds=None if seconds is None else round(seconds, 1),
        generation_seconds=found.generation_seconds,
        loading_seconds=0 if found.warm else found.loading_seconds,
        samples=found.samples,
        how=_how(found, params, len(jobs)),
    )
    return cost, _start(context.forecasts.of_several_new([estimates.as_waiting(one) for one in jobs])), ready


def _how(found: Estimate, params: GenerationParams, count: int) -> str:
    if found.generation_seconds is None:
        return f"Unknown: no generation of {params.model_id} has been measured here."
    if not found.warm and found.loading_seconds is None:
        model = params.model_id
        return f"Loading is not known: no device has {model} loaded, and no loading of it has been measured here."
    source = f"the last {found.samples} similar videos" if found.samples != 1 else "the last similar video"
    times = f", times {params.devices_per_job} devices" if params.devices_per_job > 1 else ""
    if count > 1:
        times += f", times {count} videos"
    once = " once" if count > 1 else ""
    loading = "; the model is already loaded" if found.warm else f", plus loading the model{once}"
    return f"Estimated from {source}{times}{loading}."


def _start(expected: Sequence[Forecast]) -> Start:
    first = min(expected, key=lambda one: one.start if one.start is not None else inf)
    ends = [one.end for one in expected]
    last = max((end for end in ends if end is not None), default=None) if None not in ends else None
    return Start(start_at=_iso(first.start), end_at=_iso(last), how=first.how)


def _iso(seconds: float | None) -> str | None:
    return None if seconds is None else clock.iso(clock.from_epoch(seconds))
