"""`wanworks batches`: list, show, cancel and download batches. `wanworks generate --batch` submits them."""

from pathlib import Path
from typing import Annotated, Any

import typer

from wanworks.cli import screen
from wanworks.cli.ids import batch_id
from wanworks.cli.options import AsJson, Home, Url, client_of
from wanworks.cli.targets import check_target
from wanworks.client.shapes import BatchSummary
from wanworks.errors import ExitCode, WanworksError

BatchId = Annotated[str, typer.Argument(metavar="ID", help="A batch's id, or the beginning of it.")]

app = typer.Typer(help="Batches: jobs that were submitted together.", no_args_is_help=True)


def register(root: typer.Typer) -> None:
    root.add_typer(app, name="batches")


@app.command("list")
def list_batches(
    limit: Annotated[int, typer.Option(help="Maximum number of batches, newest first.", min=1, max=100)] = 20,
    after: Annotated[str | None, typer.Option(help="Cursor from the previous page.")] = None,
    url: Url = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """List batches, newest first."""
    with client_of(url, home) as client:
        page = client.batches_page(limit=limit, after=after)
    if as_json:
        screen.print_json(page)
        return
    columns = ("id", "name", "status", "jobs", "succeeded", "failed", "cancelled", "created")
    screen.print_table(columns, map(_row, page["data"]), cut="name", least=("cancelled", "created"))
    if page["has_more"]:
        screen.note(f"more: --after {page['next']}")


@app.command("show")
def show(batch: BatchId, url: Url = None, home: Home = None, as_json: AsJson = False) -> None:
    """Show one batch. The exit code is 1 if it has failed or was cancelled."""
    with client_of(url, home) as client:
        found = client.batch(batch_id(client, batch))
    if as_json:
        screen.print_json(found)
    else:
        screen.print_fields(_fields(found))
    if found["status"] in ("failed", "cancelled"):
        raise typer.Exit(ExitCode.REFUSED)


@app.command("cancel")
def cancel(batch: BatchId, url: Url = None, home: Home = None, as_json: AsJson = False) -> None:
    """Cancel the jobs of a batch that have not ended."""
    with client_of(url, home) as client:
        found = client.cancel_batch(batch_id(client, batch))
    if as_json:
        screen.print_json(found)
    else:
        print(f"{found['id']} {found['status']}, {found['counts']['cancelled']} of {found['total']} cancelled")


@app.command("download")
def download(
    batch: BatchId,
    out: Annotated[Path | None, typer.Option(help="The file. [batch-ID.zip]")] = None,
    url: Url = None,
    home: Home = None,
) -> None:
    """Download all files of a batch as one zip archive: a folder for each job, and manifest.json."""
    check_target(out)
    with client_of(url, home) as client:
        whole = batch_id(client, batch)
        target = out or Path(f"batch-{whole}.zip")
        try:
            client.download_batch(whole, target)
        except OSError as error:
            raise WanworksError(f"--out {target}: {error.strerror or error}") from None
    print(target)


def _row(batch: BatchSummary) -> tuple[Any, ...]:
    counts = batch["counts"]
    return (
        batch["id"], batch["name"], batch["status"], batch["total"], counts["succeeded"], counts["failed"],
        counts["cancelled"], screen.moment(batch["created_at"]),
    )  # fmt: skip


def _fields(batch: BatchSummary) -> dict[str, Any]:
    return {
        "id": batch["id"],
        "name": batch["name"],
        "status": batch["status"],
        "ended": f"{batch['percent']:.0f} % of {batch['total']} jobs",
        **{state: count or None for state, count in batch["counts"].items()},
        "created": screen.local(batch["created_at"]),
        "cancel requested": screen.local(batch["cancel_requested_at"]),
        "finished": screen.local(batch["finished_at"]),
    }
