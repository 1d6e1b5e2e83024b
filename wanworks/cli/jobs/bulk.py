"""`wanworks jobs cancel`, `retry`, `delete` and `priority`: do something to all jobs that match."""

from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from wanworks.cli import screen
from wanworks.cli.ids import batch_id
from wanworks.cli.options import AsJson, Home, Url, client_of
from wanworks.client.shapes import BulkActionName, BulkResult
from wanworks.errors import ApiRefused, ConfigurationError
from wanworks.states import JobState, Priority

if TYPE_CHECKING:
    from wanworks.client.client import Client

Type = Annotated[str | None, typer.Option("--type", help="generation, download, ...")]
Status = Annotated[str | None, typer.Option(help="queued, running, succeeded, ...")]
Model = Annotated[str | None, typer.Option(help="A model_id.")]
After = Annotated[str | None, typer.Option("--created-after", help="A time, such as 2026-01-31T12:00:00Z.")]
Before = Annotated[str | None, typer.Option("--created-before", help="A time, such as 2026-01-31T12:00:00Z.")]
OfBatch = Annotated[str | None, typer.Option("--batch", help="The id of a batch.")]
Key = Annotated[str | None, typer.Option(help="An API key, by its name or id. Others' keys need admin.")]
All = Annotated[bool, typer.Option("--all", help="Every job. Needed if there is no other filter.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count the jobs.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]

_WORDS: dict[BulkActionName, tuple[str, str]] = {
    "cancel": ("cancel", "cancelled"),
    "retry": ("retry", "retried"),
    "delete": ("delete", "deleted"),
    "set_priority": ("change the priority of", "changed"),
}


def cancel(
    type: Type = None, status: Status = None, model: Model = None, created_after: After = None,
    created_before: Before = None, batch: OfBatch = None, key: Key = None, every: All = False,
    dry_run: DryRun = False, yes: Yes = False, url: Url = None, home: Home = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Cancel all jobs that match."""
    which = _which(type, status, model, created_after, created_before, batch, key, every)
    _act("cancel", which, None, dry_run, yes, url, home, as_json)


def retry(
    type: Type = None, status: Status = None, model: Model = None, created_after: After = None,
    created_before: Before = None, batch: OfBatch = None, key: Key = None, every: All = False,
    dry_run: DryRun = False, yes: Yes = False, url: Url = None, home: Home = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Retry all jobs that match and have failed or were cancelled, each at most once."""
    which = _which(type, status, model, created_after, created_before, batch, key, every)
    _act("retry", which, None, dry_run, yes, url, home, as_json)


def delete(
    type: Type = None, status: Status = None, model: Model = None, created_after: After = None,
    created_before: Before = None, batch: OfBatch = None, key: Key = None, every: All = False,
    dry_run: DryRun = False, yes: Yes = False, url: Url = None, home: Home = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Delete all jobs that match, with their files."""
    which = _which(type, status, model, created_after, created_before, batch, key, every)
    _act("delete", which, None, dry_run, yes, url, home, as_json)


def priority(
    new: Annotated[Priority, typer.Argument(metavar="PRIORITY", help="critical, high, normal or low.")],
    type: Type = None, status: Status = None, model: Model = None, created_after: After = None,
    created_before: Before = None, batch: OfBatch = None, key: Key = None, every: All = False,
    dry_run: DryRun = False, yes: Yes = False, url: Url = None, home: Home = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Set the priority of all jobs that match and wait."""
    which = _which(type, status, model, created_after, created_before, batch, key, every)
    _act("set_priority", which, new, dry_run, yes, url, home, as_json)


COMMANDS = (cancel, retry, delete, priority)


def _which(
    type: str | None, status: str | None, model: str | None, created_after: str | None, created_before: str | None,
    batch: str | None, key: str | None, every: bool,
) -> dict[str, Any]:  # fmt: skip
    given = {
        "type": type, "status": status, "model_id": model, "created_after": created_after,
        "created_before": created_before, "batch_id": batch, "key": key,
    }  # fmt: skip
    found = {name: value for name, value in given.items() if value is not None}
    if not found and not every:
        raise ConfigurationError("give a filter, such as --status failed, or --all for every job")
    return {**found, "all": True} if every else found


def _act(
    action: BulkActionName, which: dict[str, Any], priority: Priority | None, dry_run: bool, yes: bool,
    url: str | None, home: Any, as_json: bool,
) -> None:  # fmt: skip
    more: dict[str, Any] = {"priority": priority.value} if priority is not None else {}
    verb, done = _WORDS[action]
    with client_of(url, home) as client:
        if "batch_id" in which:
            which = {**which, "batch_id": batch_id(client, which["batch_id"])}
        if dry_run or not yes:
            counted = client.bulk(action, dry_run=True, **which, **more)
            fit = counted["would_change"]
            if dry_run:
                found = f"{counted['matched']} jobs match\n{fit} would be {done}"
                screen.print_json(counted) if as_json else print(found)
                return
            if fit and not typer.confirm(f"{verb} {fit} jobs?", err=True):
                raise typer.Abort()
        result = client.bulk(action, **which, **more)
        if result["job_id"] is not None:
            result = _followed(client, result)
    if as_json:
        screen.print_json(result)
        return
    print(f"{result['changed']} of {result['matched']} jobs {done}")
    for reason, count in result["skipped"].items():
        screen.note(f"{count} left out: {reason.replace('_', ' ')}")
    if result["detail"]:
        screen.note(result["detail"])


def _followed(client: "Client", result: BulkResult) -> BulkResult:
    """Follow the job that carries out the action. Return what it has done. Raises ApiRefused if it did not succeed."""
    job_id = str(result["job_id"])
    screen.note(f"{result['matched']} jobs match; job {job_id} carries it out, also if this command is interrupted")
    with screen.ProgressBars() as bars:
        for job in client.progress(job_id):
            bars.show(job, job_id)
    made = cast(dict[str, Any], job["result"] or {})
    if job["status"] != JobState.SUCCEEDED:
        raise ApiRefused(f"job {job_id} {job['status']} after {made.get('changed', 0)} jobs")
    return cast(BulkResult, {**result, **{name: made[name] for name in ("matched", "changed", "skipped", "detail")}})
