"""`wanworks queue`: show the queue, pause and resume it or parts of it, and move a job to its front."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

import typer

from wanworks.cli import screen
from wanworks.cli.ids import job_id
from wanworks.cli.options import AsJson, Home, JobId, Url, client_of
from wanworks.client.shapes import Pause

Model = Annotated[str | None, typer.Option("--model", help="The jobs of this model.")]
Device = Annotated[str | None, typer.Option(help="One device, as NODE/INDEX.")]
OfNode = Annotated[str | None, typer.Option("--node", help="One node; the same as draining it.")]
Key = Annotated[str | None, typer.Option(help="The jobs of this API key, by its name or id.")]
JobType = Annotated[str | None, typer.Option("--type", help="The jobs of this type, such as generation or download.")]

_UNITS = {"m": 1, "h": 60, "d": 24 * 60}

app = typer.Typer(help="The queue: show it, pause and resume it, reorder it.", no_args_is_help=True)


def register(root: typer.Typer) -> None:
    root.add_typer(app, name="queue")


@app.command("show")
def show(url: Url = None, home: Home = None, as_json: AsJson = False) -> None:
    """Show how many jobs wait and run, by priority and model, and what is paused."""
    with client_of(url, home) as client:
        found = client.queues()
    if as_json:
        screen.print_json(found)
        return
    columns = ("priority", "model", "queued", "waiting for model", "running", "oldest")
    rows = (
        (
            row["priority"],
            row["model_id"] or "all",
            str(row["queued"]),
            str(row["waiting_for_model"]),
            str(row["running"]),
            "" if row["oldest_age_seconds"] is None else f"{row['oldest_age_seconds']:.0f} s",
        )
        for row in found["queues"]
    )
    screen.print_table(columns, rows)
    if found["held"]:
        print(f"{found['held']} more may not start yet: before their time, or before other jobs of their flow")
    _print(found["pauses"])


@app.command("pause")
def pause(
    model: Model = None,
    device: Device = None,
    node: OfNode = None,
    key: Key = None,
    job_type: JobType = None,
    reason: Annotated[str, typer.Option(help="Shown to those who look at the queue.")] = "",
    until: Annotated[
        str | None, typer.Option(help="When it ends by itself: 30m, 12h, 2d, or a time as 2026-01-31T12:00:00Z.")
    ] = None,
    running: Annotated[
        Literal["finish", "yield"], typer.Option(help="Whether running jobs finish, or return to the queue.")
    ] = "finish",
    url: Url = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Start no more jobs, of one model, device, node, key or type, or of any. They are accepted and wait."""
    ends = _end(until) if until is not None else None
    with client_of(url, home) as client:
        found = client.pause_queue(
            model_id=model, device=device, node=node, key=key, job_type=job_type, reason=reason, until=ends,
            running=running,
        )  # fmt: skip
    screen.print_json(found) if as_json else _print(found)


@app.command("resume")
def resume(
    model: Model = None,
    device: Device = None,
    node: OfNode = None,
    key: Key = None,
    job_type: JobType = None,
    url: Url = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """End a pause: of everything, or of exactly the model, device, node, key or type that was paused."""
    with client_of(url, home) as client:
        found = client.resume_queue(model_id=model, device=device, node=node, key=key, job_type=job_type)
    if as_json:
        screen.print_json(found)
    elif found:
        _print(found)
    else:
        print("nothing is paused")


@app.command("front")
def front(
    job: JobId,
    undo: Annotated[bool, typer.Option("--undo", help="Return it to the place of its priority and age.")] = False,
    url: Url = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Move a queued job before all others."""
    with client_of(url, home) as client:
        found = (client.move_back if undo else client.move_to_front)(job_id(client, job))
    if as_json:
        screen.print_json(found)
    else:
        print(f"{found['id']} is {'at the place of its priority and age' if undo else 'before all others'}")


def _end(text: str) -> str:
    """Return the end of a pause as the API reads it. Raises BadParameter."""
    if text[:-1].isdecimal() and text[-1:] in _UNITS and 0 < int(text[:-1]) < 100_000:
        end = datetime.now(UTC) + timedelta(minutes=int(text[:-1]) * _UNITS[text[-1]])
        return end.isoformat(timespec="seconds").replace("+00:00", "Z")
    from wanworks.moments import parse_moment

    try:
        parse_moment(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is neither a time span such as 30m, 12h or 2d, nor a time such as 2026-01-31T12:00:00Z",
            param_hint="--until",
        ) from None
    return text


def _print(pauses: list[Pause]) -> None:
    for each in pauses:
        what = each["scope"] if each["value"] is None else f"{each['scope']} {each['value']}"
        end = f" until {screen.local(each['until'])}" if each["until"] else ""
        reason = f": {each['reason']}" if each["reason"] else ""
        print(f"paused: {what}{end}, by {each['created_by']}{reason}")
