"""`wanworks jobs` and `job`: list jobs, and show one."""

from collections.abc import Mapping
from typing import Annotated, Any, cast

import typer

from wanworks.cli import ids, screen
from wanworks.cli.jobs import bulk, naming
from wanworks.cli.options import AsJson, Home, JobId, Url, client_of
from wanworks.client.shapes import Job, JobFilter, ended
from wanworks.errors import ExitCode

_WHOLE_PROMPT = 5000


def jobs(
    context: typer.Context,
    type: Annotated[str | None, typer.Option(help="generation, download, ...")] = None,
    status: Annotated[str | None, typer.Option(help="queued, running, succeeded, ...")] = None,
    model: Annotated[str | None, typer.Option(help="A model_id.")] = None,
    created_after: bulk.After = None,
    created_before: bulk.Before = None,
    batch: bulk.OfBatch = None,
    key: bulk.Key = None,
    limit: Annotated[int, typer.Option(help="Maximum number of jobs, newest first.", min=1, max=100)] = 20,
    after: Annotated[str | None, typer.Option(help="Cursor from the previous page.")] = None,
    url: Url = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first; or cancel, retry, delete or reorder all that match."""
    which = {
        "type": type, "status": status, "model_id": model, "created_after": created_after,
        "created_before": created_before, "batch_id": batch, "key": key,
    }  # fmt: skip
    if context.invoked_subcommand is not None:
        if any((*which.values(), after, url, home, as_json)):
            name = context.invoked_subcommand
            raise typer.BadParameter(f"give the options after `{name}`: wanworks jobs {name} --status ...")
        return
    with client_of(url, home) as client:
        if batch is not None:
            which["batch_id"] = ids.batch_id(client, batch)
        page = client.jobs_page(**cast(JobFilter, which), limit=limit, after=after)
    if as_json:
        screen.print_json(page)
        return
    if screen.out().is_terminal:
        columns: tuple[str, ...] = ("id", "status", "model", "took", "device", "created", "what")
        rows = (_brief_row(job) for job in page["data"])
        screen.print_table(columns, rows, cut="what", least=("device", "took", "model"))
    else:
        columns = ("id", "type", "model", "status", "percent", "took", "device", "created", "prompt")
        screen.print_table(columns, (_row(job) for job in page["data"]))
    if page["has_more"]:
        screen.note(f"more: --after {page['next']}")


def job(job: JobId, url: Url = None, home: Home = None, as_json: AsJson = False) -> None:
    """Show one job. The exit code is 1 if it failed or was cancelled."""
    with client_of(url, home) as client:
        found = client.job(ids.job_id(client, job))
    if as_json:
        screen.print_json(found)
    else:
        screen.print_fields(_fields(found))
    if found["status"] in ("failed", "cancelled"):
        raise typer.Exit(ExitCode.REFUSED)


def _brief_row(job: Job) -> tuple[Any, ...]:
    """Return a row for a terminal: in one line, what people look for."""
    done = f" {screen.percent(job):.0f} %" if job["status"] == "running" else ""
    return (
        job["id"],
        f"{job['status']}{done}",
        job["model_id"],
        screen.duration(_seconds(job)),
        job["device"],
        screen.moment(job["created_at"]),
        naming.title(job),
    )


def _row(job: Job) -> tuple[Any, ...]:
    return (
        job["id"],
        job["type"],
        job["model_id"],
        job["status"],
        f"{screen.percent(job):.0f}",
        screen.duration(_seconds(job)),
        job["device"],
        screen.local(job["created_at"]),
        screen.shortened(job["params"].get("prompt")),
    )


def _seconds(job: Job) -> float | None:
    """Return the seconds from the job's first start to its end; None before it has ended."""
    if not ended(job) or job["started_at"] is None or job["finished_at"] is None:
        return None
    return screen.seconds_between(job["started_at"], job["finished_at"])


def _fields(job: Job) -> dict[str, Any]:
    result: Mapping[str, Any] = job["result"] or {}
    return {
        "id": job["id"],
        "type": job["type"],
        "model": job["model_id"],
        "prompt": screen.shortened(job["params"].get("prompt"), _WHOLE_PROMPT),
        "does": None if job["params"].get("prompt") else naming.title(job),
        "node": job["node"],
        "status": job["status"],
        "now": screen.doing(job) if job["status"] in ("queued", "running") else None,
        "percent": f"{screen.percent(job):.0f}",
        "priority": job["priority"],
        "attempt": job["attempt"],
        "device": job["device"],
        "GPU seconds": None if (held := job.get("gpu_seconds")) is None else f"{held:.1f}",
        "created": screen.local(job["created_at"]),
        "started": screen.local(job["started_at"]),
        "finished": screen.local(job["finished_at"]),
        "took": screen.duration(_seconds(job)),
        "error": f"{job['error']['message']} ({job['error']['code']})" if job["error"] else None,
        "video": (
            "{width}x{height}, {frames} frames, {fps:g} fps, seed {seed}".format(**result)
            if "width" in result
            else None
        ),
        "artifacts": " ".join(artifact["url"] for artifact in result.get("artifacts", ())),
    }
