"""Say why a queued job waits. Pure, given what is registered."""

from collections.abc import Sequence

from api.schemas.jobs.jobs import WaitingFor
from api.services.hosts import Seen
from shared import clock
from shared.database.tables import Job
from shared.jobs.claims import pauses
from shared.jobs.lines.holding import BULK, DEPENDENCY, START_TIME, WINDOW
from shared.models.memory_plan import Needs
from shared.states import JobState, Phase

_SHOWN = 3
_SHOWN_NAMES = 10


def waiting_for(
    job: Job, seen: Seen, now: float, may_run: int | None = None, jobs: Sequence[str] = ()
) -> WaitingFor | None:
    """Return the reason; None if the job is not queued. `now`: seconds since 1970.

    `may_run`: the limit of the job's key, if the key runs as many jobs. `jobs`: the names of the jobs of its flow that
    must end before it starts.
    """
    if job.status != JobState.QUEUED:
        return None
    if job.held == BULK:
        return WaitingFor(reason="limit", detail="A web process carries out one action on many jobs at a time.")
    if job.held == DEPENDENCY:
        named = f": {', '.join(jobs[:_SHOWN_NAMES])}" if jobs else ""
        more = f" and {len(jobs) - _SHOWN_NAMES} more" if len(jobs) > _SHOWN_NAMES else ""
        detail = f"It waits for other jobs of its flow{named}{more}."
        return WaitingFor(reason="dependency", detail=detail)
    if job.held == WINDOW or seen.windows.closed(job.type, job.priority, job.owner, job.front_at, now):
        return _for_its_window(job, seen, now)
    if job.held == START_TIME:
        at = clock.iso(clock.from_epoch(job.queued_at))
        return WaitingFor(reason="start_time", detail=f"It may start from {at} on.")
    if (by := _pause_of(job, seen)) is not None:
        return by
    if job.not_before > now:
        return WaitingFor(reason="backoff", detail=f"It is tried again in {job.not_before - now:.0f} s.")
    if job.target_node is not None:
        return _for_a_node(job, seen)
    if job.phase == Phase.WAITING_FOR_MODEL:
        return WaitingFor(reason="model", detail=f"No node has {job.model_id} yet.")
    if may_run is not None:
        detail = f"Its API key runs {may_run} of the {may_run} jobs that it may run at once."
        return WaitingFor(reason="limit", detail=detail)
    return _for_a_device(job, seen)


def _pause_of(job: Job, seen: Seen) -> WaitingFor | None:
    row = pauses.covering(seen.pauses, model_id=job.model_id, owner=job.owner, job_type=job.type, node=job.target_node)
    if row is None:
        return None
    what = {"everything": "The queue is", "key": "The jobs of its API key are"}
    detail = f"{what.get(row.kind, f'{row.value} is')} paused"
    detail += f" until {clock.iso(clock.from_epoch(row.until))}" if row.until is not None else ""
    return WaitingFor(reason="pause", detail=f"{detail}: {row.reason}" if row.reason else f"{detail}.")


def _for_its_window(job: Job, seen: Seen, now: float) -> WaitingFor:
    window = seen.windows.of(job.owner)
    if window is None or window.is_open(now):
        return WaitingFor(reason="window", detail="The window of low priority is open: it joins the queue soon.")
    opens = clock.iso(clock.from_epoch(window.opens_at(now)))
    return WaitingFor(
        reason="window", detail=f"Jobs of low priority start in the window {window}, which opens at {opens}."
    )


def lacks_fp8(devices: int) -> str:
    """Return why fp8 cannot run on any of so many registered devices."""
    return (
        "fp8 needs a GPU of compute capability 8.9 or more (Ada, Hopper or later), "
        f"which none of the {devices} registered devices has."
    )


def _for_a_node(job: Job, seen: Seen) -> WaitingFor:
    if job.target_node not in seen.io_nodes:
        return WaitingFor(reason="device", detail=f"Node {job.target_node} is offline or drained.", open_devices=0)
    return WaitingFor(reason="limit", detail=f"Node {job.target_node} runs as many jobs of this type as it may.")


def _for_a_device(job: Job, seen: Seen) -> WaitingFor:
    if not seen.devices:
        return WaitingFor(reason="device", detail="No device is registered.", open_devices=0)
    if job.mock or not job.memory_needs:
        fitting = list(seen.devices)
    else:
        needs = Needs.read(job.memory_needs)
        fitting = [one for one in seen.devices if one.fits(needs)]
    if not fitting and not any(Needs.read(job.memory_needs).runs_on(one.capability) for one in seen.devices):
        return WaitingFor(reason="device", detail=lacks_fp8(len(seen.devices)), open_devices=0)
    if not fitting:
        least = min(Needs.read(job.memory_needs).cuda)
        return WaitingFor(
            reason="memory",
            detail=f"None of the {len(seen.devices)} registered devices has the memory: on a GPU it needs at least "
            f"{least[0] / 1000:.1f} GB, and {least[1] / 1000:.1f} GB of its host.",
            open_devices=0,
        )
    open_ones = [one for one in fitting if one.open]
    if open_ones:
        these = "The device that fits it is" if len(open_ones) == 1 else f"All {len(open_ones)} devices that fit it are"
        detail = f"{these} busy, or about to start it."
        return WaitingFor(reason="device", detail=detail, open_devices=len(open_ones))
    closed = ", ".join(f"{one.key} ({one.state})" for one in fitting[:_SHOWN])
    more = f" and {len(fitting) - _SHOWN} more" if len(fitting) > _SHOWN else ""
    return WaitingFor(
        reason="device", detail=f"The devices that fit it accept no jobs: {closed}{more}.", open_devices=0
    )
