"""The commands with which a queue is operated: `dead`, `priority` and `usage`; and what a dry run prints."""

from typing import Annotated, Any, Literal, cast

import typer

from wanworks.cli import ids, screen
from wanworks.cli.options import AsJson, Home, JobId, Url, client_of
from wanworks.errors import ConfigurationError, ExitCode
from wanworks.states import Priority

_DIMENSIONS = ("key", "day", "model")

dead = typer.Typer(
    help="Jobs that have failed, may succeed if repeated, and have not been retried.", no_args_is_help=True
)

JobType = Annotated[str | None, typer.Option(help="generation, download, ...")]
Model = Annotated[str | None, typer.Option(help="A model_id.")]
Code = Annotated[str | None, typer.Option("--error", help="An error code, such as worker_lost.")]
After = Annotated[str | None, typer.Option("--failed-after", help="A time, such as 2026-01-31T12:00:00Z.")]
Before = Annotated[str | None, typer.Option("--failed-before", help="A time, such as 2026-01-31T12:00:00Z.")]


@dead.command("list")
def list_dead(
    type: JobType = None,
    model: Model = None,
    error: Code = None,
    failed_after: After = None,
    failed_before: Before = None,
    limit: Annotated[int, typer.Option(help="Maximum number of jobs, newest first.", min=1, max=100)] = 20,
    after: Annotated[str | None, typer.Option(help="Cursor from the previous page.")] = None,
    url: Url = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """List dead jobs, newest first."""
    with client_of(url, home) as client:
        page = client.dead_jobs(
            type=type,
            model_id=model,
            error_code=error,
            failed_after=failed_after,
            failed_before=failed_before,
            limit=limit,
            after=after,
        )
    if as_json:
        screen.print_json(page)
        return
    rows = (
        (
            job["id"],
            job["type"],
            job["model_id"],
            screen.moment(job["finished_at"]),
            job["error"]["code"] if job["error"] else None,
        )
        for job in page["data"]
    )
    screen.print_table(("id", "type", "model", "failed", "error"), rows, least=("type",))
    if page["has_more"]:
        screen.note(f"more: --after {page['next']}")


@dead.command("redrive")
def redrive(
    type: JobType = None,
    model: Model = None,
    error: Code = None,
    failed_after: After = None,
    failed_before: Before = None,
    metadata: Annotated[list[str] | None, typer.Option(help="NAME=VALUE; may be repeated.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count the jobs.")] = False,
    url: Url = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Retry dead jobs, all of them or those that match. The exit code is 1 if one could not be retried."""
    if wrong := [text for text in metadata or () if not text.partition("=")[1]]:
        raise ConfigurationError(f"--metadata: {wrong[0]!r} is not NAME=VALUE")
    labels = dict(text.split("=", 1) for text in metadata or ())
    done: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = []
    matched: int | None = None
    after: str | None = None
    with client_of(url, home) as client:
        while True:
            part = client.redrive(
                type=type,
                model_id=model,
                error_code=error,
                failed_after=failed_after,
                failed_before=failed_before,
                metadata=labels or None,
                dry_run=dry_run,
                after=after,
            )
            matched = part["matched"] if matched is None else matched
            done += part["redriven"]
            refused += part["refused"]
            after = part["next"]
            if dry_run or not part["has_more"]:
                break
    if as_json:
        screen.print_json({"dry_run": dry_run, "matched": matched, "redriven": done, "refused": refused})
    elif dry_run:
        print(f"{matched} dead jobs match")
    else:
        screen.print_table(("id", "retried as"), ((one["id"], one["retry_id"]) for one in done))
        for one in refused:
            screen.note(f"{one['id']}: {one['detail']} ({one['code']})")
    if refused:
        raise typer.Exit(ExitCode.REFUSED)


def set_priority(
    job: JobId,
    priority: Annotated[Priority, typer.Argument(help="critical, high, normal or low.")],
    url: Url = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Change the priority of a job that waits."""
    with client_of(url, home) as client:
        changed = client.set_priority(ids.job_id(client, job), cast(Any, priority.value))
    if as_json:
        screen.print_json(changed)
    else:
        print(f"{changed['id']} {changed['priority']}")


def usage(
    first: Annotated[str | None, typer.Option("--from", help="First day in UTC. [the first of this month]")] = None,
    last: Annotated[str | None, typer.Option("--to", help="Last day in UTC. [today]")] = None,
    by: Annotated[str, typer.Option(help="What to group by, separated by commas.")] = "key,day,model",
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, for spreadsheets.")] = False,
    url: Url = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show the device time of ended generations by key, day and model. Keys without `admin` see their own."""
    names = tuple(by.split(","))
    if not set(names) <= set(_DIMENSIONS):
        raise ConfigurationError(f"--by: {by!r} is not made of key, day and model, separated by commas")
    chosen = cast(tuple[Literal["key", "day", "model"], ...], names)
    with client_of(url, home) as client:
        if as_csv:
            print(client.usage_csv(first_day=first, last_day=last, by=chosen), end="")
            return
        found = client.usage(first_day=first, last_day=last, by=chosen)
    if as_json:
        screen.print_json(found)
        return
    columns = [column for name in names for column in ({"model": "model_id"}.get(name, name),)]
    columns += ["jobs", "succeeded", "failed", "cancelled"]
    rows = ([*(row[column] for column in columns), f"{row['gpu_seconds']:.1f}"] for row in found["data"])
    screen.print_table((*columns, "GPU seconds"), rows)


def show_dry_run(found: dict[str, Any], *, as_json: bool) -> None:
    """Print what accepting a generation would cost."""
    if as_json:
        screen.print_json(found)
        return
    cost, expected, memory = found["cost"], found["expected"], found["memory"]
    screen.print_fields(
        {
            "model": found["model_id"],
            "video": "{resolution}, {frames} frames, {steps} steps".format(**found["params"]),
            "videos": count if (count := found.get("count", 1)) > 1 else None,
            "priority": found["priority"],
            "ahead": found["queue_position"],
            "GPU seconds": cost["gpu_seconds"],
            "reckoned": cost["how"],
            "start": screen.local(expected["start_at"]),
            "end": screen.local(expected["end_at"]),
            "because": expected["how"],
            "fits": None if memory is None else f"{memory['fitting_devices']} devices, {memory['open_devices']} open",
            **{one["name"]: f"{one['used']:g} of {one['allowed']:g}" for one in found["limits"]},
        }
    )


def register(app: typer.Typer) -> None:
    app.add_typer(dead, name="dead")
    app.command("priority")(set_priority)
    app.command()(usage)
