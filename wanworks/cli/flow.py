"""`wanworks flow`: submit jobs that depend on one another, show them as a tree, cancel, retry and await them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from wanworks.cli import screen
from wanworks.cli.ids import flow_id
from wanworks.cli.options import AsJson, Home, Url, client_of
from wanworks.client.shapes import Flow, FlowJob
from wanworks.errors import ConfigurationError, ExitCode

FlowId = Annotated[str, typer.Argument(metavar="FLOW", help="A flow's id, or the beginning of it.")]
_FIELDS = ("jobs", "name", "webhook_url", "metadata")
_STATES = ("held", "queued", "running", "paused", "succeeded", "failed", "cancelled", "skipped")

app = typer.Typer(help="Flows: jobs that depend on one another.", no_args_is_help=True)


def register(root: typer.Typer) -> None:
    root.add_typer(app, name="flow")


@app.command("submit")
def submit(
    file: Annotated[Path, typer.Argument(metavar="FILE.json", help="The body of POST /api/v1/flows.")],
    key: Annotated[
        str | None, typer.Option("--idempotency-key", help="The same key gives the same flow again.")
    ] = None,
    url: Url = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Submit a flow from a JSON file. All of its jobs are accepted, or none."""
    body = _read(file)
    with client_of(url, home) as client:
        flow = client.submit_flow(
            body["jobs"],
            name=body.get("name"),
            webhook_url=body.get("webhook_url"),
            metadata=body.get("metadata"),
            idempotency_key=key,
        )
    screen.print_json(flow) if as_json else print(flow["id"])


@app.command("show")
def show(flow: FlowId, url: Url = None, home: Home = None, as_json: AsJson = False) -> None:
    """Show a flow: its jobs as a tree, each below the first one that it depends on, with their states."""
    with client_of(url, home) as client:
        found = client.flow(flow_id(client, flow))
    screen.print_json(found) if as_json else _print(found)


@app.command("list")
def list_flows(
    state: Annotated[
        str | None, typer.Option(help="Only flows in this state: queued, running, succeeded, failed or cancelled.")
    ] = None,
    limit: Annotated[int, typer.Option(help="Maximum number of flows, newest first.", min=1, max=100)] = 20,
    after: Annotated[str | None, typer.Option(help="Cursor from the previous page.")] = None,
    url: Url = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """List flows, newest first."""
    with client_of(url, home) as client:
        page = client.flows_page(state=state, limit=limit, after=after)
    if as_json:
        screen.print_json(page)
        return
    rows = (
        (row["id"], row["name"], row["state"], f"{row['progress_percent']:.0f} %", _counted(row["counts"]))
        for row in page["data"]
    )
    screen.print_table(("id", "name", "state", "done", "jobs"), rows, cut="name", wrapped=("jobs",))
    if page["has_more"]:
        screen.note(f"more: --after {page['next']}")


@app.command("cancel")
def cancel(flow: FlowId, url: Url = None, home: Home = None, as_json: AsJson = False) -> None:
    """Cancel all jobs of a flow that have not ended."""
    with client_of(url, home) as client:
        found = client.cancel_flow(flow_id(client, flow))
    if as_json:
        screen.print_json(found)
    elif found["state"] == "cancelled":
        print(f"{found['id']} is cancelled")
    else:
        print(f"{found['id']} is being cancelled: {found['counts']['running']} running jobs stop within a step")


@app.command("retry")
def retry(flow: FlowId, url: Url = None, home: Home = None, as_json: AsJson = False) -> None:
    """Queue the jobs of a flow again that failed, were cancelled or skipped. Those that succeeded stay."""
    with client_of(url, home) as client:
        found = client.retry_flow(flow_id(client, flow))
    screen.print_json(found) if as_json else _print(found)


@app.command("wait")
def wait(
    flow: FlowId,
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait; the flow continues. [no limit]")] = None,
    url: Url = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Wait until a flow has ended, and show it. Exit code 1 if it has not succeeded."""
    with client_of(url, home) as client:
        found = client.wait_flow(flow_id(client, flow), timeout)
    screen.print_json(found) if as_json else _print(found)
    if found["state"] != "succeeded":
        raise typer.Exit(ExitCode.REFUSED)


def tree(flow: Flow) -> list[tuple[int, FlowJob]]:
    """Return the jobs with their depth, each below the first of those that it depends on, in the flow's order."""
    below: dict[str | None, list[FlowJob]] = {}
    for job in flow["jobs"]:
        below.setdefault(job["depends_on"][0] if job["depends_on"] else None, []).append(job)
    found: list[tuple[int, FlowJob]] = []
    left = [(0, job) for job in reversed(below.get(None, []))]
    while left:
        depth, job = left.pop()
        found.append((depth, job))
        left += [(depth + 1, other) for other in reversed(below.get(job["name"], []))]
    return found


def _print(flow: Flow) -> None:
    eta = "" if flow["eta_seconds"] is None else f", about {flow['eta_seconds']:.0f} s left"
    name = f" {flow['name']}" if flow["name"] else ""
    print(f"{flow['id']}{name}: {flow['state']}, {flow['progress_percent']:.0f} %{eta}")
    for depth, job in tree(flow):
        print(f"{'  ' * (depth + 1)}{job['name']}: {_said(job)}")


def _said(job: FlowJob) -> str:
    text = job["state"]
    if job["state"] == "running":
        text += f" {job['progress_percent']:.0f} %"
    if job["waits_for"]:
        text += f" (waits for {', '.join(job['waits_for'])})"
    if job["error"] is not None:
        text += f": {job['error']['message']}"
    return text


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{counts[state]} {state}" for state in _STATES if counts.get(state))


def _read(file: Path) -> dict[str, Any]:
    """Return the body in the file. Raises ConfigurationError if it is not one; the API checks the rest."""
    try:
        body = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigurationError(f"{file} is not JSON: {error}") from None
    if not isinstance(body, dict) or not isinstance(body.get("jobs"), list):
        raise ConfigurationError(f'{file} has no list of jobs; it must be an object with the field "jobs"')
    if unknown := [name for name in body if name not in _FIELDS]:
        raise ConfigurationError(
            f"{file} has fields that a flow does not have: {', '.join(unknown)}; allowed: {', '.join(_FIELDS)}"
        )
    return body
