"""The commands for the model library: list, download, verify, clean up, and serve a hub."""

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wanworks.cli import screen
from wanworks.cli.options import AsJson, Home, Url, client_of
from wanworks.client.shapes import Job, succeeded, why_not
from wanworks.errors import ApiRefused, ExitCode
from wanworks.home import needs_server

if TYPE_CHECKING:
    from wanworks.client.client import Client

Model = Annotated[str, typer.Argument(metavar="MODEL", help="A model_id.")]
Node = Annotated[str | None, typer.Option(help="Name of a node. [every node that is online]")]


def register(app: typer.Typer) -> None:
    for command in (
        models,
        download,
        pause,
        resume,
        limit,
        verify,
        prepare,
        cleanup,
        analytics,
        fallback,
        pin,
        unpin,
        hub,
    ):
        app.command()(command)
    app.command("cancel-download")(cancel_download)


def models(url: Url = None, home: Home = None, as_json: AsJson = False) -> None:
    """Show the models with their availability, integrity and use."""
    with client_of(url, home) as client:
        found = client.models()
    if as_json:
        screen.print_json(found)
        return
    columns = ("model", "status", "GB", "nodes", "integrity", "loaded", "uses/day", "version", "update", "pinned")
    rows = (_model_row(model) for model in found["models"].values())
    screen.print_table(columns, rows, least=("version", "uses/day", "GB", "loaded", "nodes", "integrity"))
    for model in found["models"].values():
        if model.get("extends"):
            caveat = f"; {model['caveat']}" if model.get("caveat") else ""
            screen.note(f"{model['model_id']} is a preset of {model['extends']}; GB is the size of its LoRA{caveat}")


def download(
    model: Model,
    node: Annotated[str | None, typer.Option(help="The target node. [the only node that is online]")] = None,
    revision: Annotated[str | None, typer.Option(help="A commit, branch or tag. [the catalogue's]")] = None,
    priority: Annotated[str | None, typer.Option(help="critical, high, normal or low. [normal]")] = None,
    limit: Annotated[float | None, typer.Option(help="Bandwidth in Mbps. [no limit]")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait; the download continues. [no limit]")] = None,
    url: Url = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Download a model to a node and show the progress. Existing files are not downloaded again."""
    asked = {
        "model_id": model,
        "node": node,
        "revision": revision,
        "priority": priority,
        "bandwidth_limit_mbps": limit,
    }
    with client_of(url, home) as client:
        job = watched(client, [client.fetch_model(**given(asked))], timeout)[0]
    if as_json:
        screen.print_json(job)
    if not succeeded(job):
        raise ApiRefused(why_not(job))
    if not as_json:
        result: Mapping[str, Any] = job["result"] or {}
        fetched, seconds = result["bytes_fetched"] / 1e6, result["seconds"]
        print(f"{model} {result['revision'][:12]}: {fetched:.1f} MB fetched in {seconds:.1f} s, on {job['node']}")
        written: Mapping[str, Any] = result.get("prepared") or {}
        if written.get("error"):
            screen.note(f"not prepared: {written['error']}")
        elif written:
            print(f"prepared: {', '.join(written['copies']) or 'complete'}, {written['seconds']:.1f} s")


def pause(model: Model, node: Node = None, url: Url = None, home: Home = None, as_json: AsJson = False) -> None:
    """Pause the download of a model; its bytes are kept."""
    _manage({"model_id": model, "action": "pause", "node": node}, url, home, as_json)


def resume(model: Model, node: Node = None, url: Url = None, home: Home = None, as_json: AsJson = False) -> None:
    """Resume the paused download of a model."""
    _manage({"model_id": model, "action": "resume", "node": node}, url, home, as_json)


def cancel_download(
    model: Model, node: Node = None, url: Url = None, home: Home = None, as_json: AsJson = False
) -> None:
    """Cancel the download of a model and remove its partial files."""
    _manage({"model_id": model, "action": "cancel", "node": node}, url, home, as_json)


def limit(
    model: Model,
    mbps: Annotated[float, typer.Argument(metavar="MBPS", help="10^6 bits per second.")],
    node: Node = None,
    url: Url = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Limit the bandwidth of a model's download, also while it runs."""
    asked = {"model_id": model, "action": "bandwidth", "bandwidth_limit_mbps": mbps, "node": node}
    _manage(asked, url, home, as_json)


def verify(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="A model_id. [all]")] = None,
    full: Annotated[bool, typer.Option("--full", help="Read every byte, also of unchanged files.")] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Download the broken files again.")] = False,
    node: Node = None,
    url: Url = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Check the files of a model, or of all, against their checksums. The exit code is 1 if a file is wrong."""
    with client_of(url, home) as client:
        asked = {"model_id": model, "node": node, "full": full, "repair": repair}
        jobs = watched(client, client.verify(**given(asked)))
    if as_json:
        screen.print_json({"data": jobs})
    else:
        columns = ("model", "node", "integrity", "file", "wrong", "repaired")
        screen.print_table(columns, (row for job in jobs for row in _verdicts(job)), wrapped=("file",))
    failed = [job for job in jobs if not succeeded(job)]
    if failed:
        raise ApiRefused(why_not(failed[0]))
    if any(_is_broken(job) for job in jobs):
        raise typer.Exit(ExitCode.REFUSED)


def prepare(
    model: Model,
    int8: Annotated[bool, typer.Option("--int8", help="Copies for jobs with int8. [bf16]")] = False,
    fp8: Annotated[bool, typer.Option("--fp8", help="Copies for jobs with fp8. [bf16]")] = False,
    node: Node = None,
    url: Url = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Write copies of a model's weights in the form in which they are loaded, so that loading is faster."""
    if int8 and fp8:
        raise typer.BadParameter("name only one of them", param_hint="--int8, --fp8")
    with client_of(url, home) as client:
        asked = {"quantization": "int8" if int8 else "fp8" if fp8 else "bf16", "node": node}
        jobs = watched(client, client.prepare(model, **given(asked)))
    if as_json:
        screen.print_json({"data": jobs})
    else:
        columns = ("model", "node", "copies", "GB written", "GB shared", "seconds")
        screen.print_table(columns, (_prepared_row(job) for job in jobs if succeeded(job)))
    failed = [job for job in jobs if not succeeded(job)]
    if failed:
        raise ApiRefused(why_not(failed[0]))


def cleanup(
    execute: Annotated[bool, typer.Option("--execute", help="Remove it. [only show it]")] = False,
    target_gb: Annotated[
        float | None, typer.Option(help="Free space to reach, in GB. [remove all unused files]")
    ] = None,
    keep_days: Annotated[int, typer.Option(help="Keep models used in the last N days.")] = 30,
    node: Node = None,
    url: Url = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show what could be removed from the model storage; with --execute, remove it."""
    asked = {"target_space_gb": target_gb, "keep_recent_days": keep_days, "dry_run": not execute, "node": node}
    with client_of(url, home) as client:
        answer = client.cleanup(**given(asked))
        jobs = watched(client, [client.job(job_id) for job_id in answer["job_ids"]])
    if as_json:
        screen.print_json({**answer, "jobs": jobs})
    elif execute:
        done = [(job, action) for job in jobs for action in _result(job).get("executed_actions", ())]
        rows = [(*_action_row({**action, "node": job["node"]}), action["freed_bytes"] / 1e9) for job, action in done]
        _print_actions(rows, "GB freed")
        skipped = [action for job in jobs for action in _result(job).get("skipped", ())]
        for action in skipped:
            screen.note(f"skipped {action['action_type']} {action['model_id'] or ''}: {action['reason']}")
    else:
        plan = answer["recommendations"]
        _print_actions([(*_action_row(action), action["space_freed_gb"]) for action in plan["cleanup_actions"]], "GB")
        for kept in plan["kept"]:
            screen.note(f"{kept['model_id']} on {kept['node']} is kept: {kept['reason']}")
        if plan["cleanup_actions"]:
            screen.note("nothing was removed; use --execute to remove it")
    failed = [job for job in jobs if not succeeded(job)]
    if failed:
        raise ApiRefused(why_not(failed[0]))


def analytics(
    days: Annotated[int, typer.Option(help="Number of days.", min=1, max=3650)] = 30,
    url: Url = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show each model's use, generation time and success rate."""
    with client_of(url, home) as client:
        found = client.analytics(days)
    if as_json:
        screen.print_json(found)
        return
    columns = ("model", "uses", "uses/day", "seconds", "success", "peak hours (UTC)")
    rows = (_use_row(model) for model in found["model_analytics"].values())
    screen.print_table(columns, rows, cut="peak hours (UTC)")


def fallback(
    model: Model,
    quality: Annotated[str | None, typer.Option(help="low, medium or high. [medium]")] = None,
    speed: Annotated[str | None, typer.Option(help="fast, medium or slow. [medium]")] = None,
    resolution: Annotated[str | None, typer.Option(help="[1280x720]")] = None,
    max_wait: Annotated[float | None, typer.Option(help="Maximum wait in minutes. [no limit]")] = None,
    url: Url = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Suggest what to do while a model cannot serve."""
    asked = {
        "requested_model": model,
        "quality": quality,
        "speed": speed,
        "resolution": resolution,
        "max_wait_minutes": max_wait,
    }
    with client_of(url, home) as client:
        found = client.fallback(**given(asked))
    if as_json:
        screen.print_json(found)
        return
    strategy, alternative = found["fallback_strategy"], found["alternative_suggestion"]
    screen.print_fields(
        {
            "strategy": strategy["strategy_type"],
            "do": strategy["recommended_action"],
            "because": strategy["user_message"],
            "wait seconds": rounded(strategy["estimated_wait_time"]),
            "alternative": alternative and f"{alternative['suggested_model']}: {alternative['reason']}",
        }
    )


def pin(model: Model, url: Url = None, home: Home = None, as_json: AsJson = False) -> None:
    """Protect a model from cleanup."""
    _pin(model, True, url, home, as_json)


def unpin(model: Model, url: Url = None, home: Home = None, as_json: AsJson = False) -> None:
    """Allow cleanup to remove a model again."""
    _pin(model, False, url, home, as_json)


@needs_server
def hub(
    root: Annotated[Path, typer.Option(help="Folder of models: a Hugging Face cache.", exists=True, file_okay=False)],
    port: Annotated[int, typer.Option(help="0 selects a free one.", min=0, max=65535)] = 8080,
    host: Annotated[str, typer.Option(help="Address to bind to.")] = "127.0.0.1",
) -> None:
    """Serve a folder of models over the hub's protocol, as a mirror. Prints `ready URL`."""
    from wanworks.supervise.programs import inherited

    command = [sys.executable, "-m", "api.hub", "--root", str(root.absolute()), "--port", str(port), "--host", host]
    sys.stdout.flush()
    os.execve(command[0], command, inherited())


def _manage(asked: Mapping[str, Any], url: str | None, home: Path | None, as_json: bool) -> None:
    with client_of(url, home) as client:
        answer = client.manage_download(**given(asked))
    if as_json:
        screen.print_json(answer)
    else:
        print(f"{answer['message']} ({answer['current_status']}, {answer['progress_percent']:.0f} %)")


def _pin(model: str, pinned: bool, url: str | None, home: Path | None, as_json: bool) -> None:
    with client_of(url, home) as client:
        answer = client.pin(model, pinned)
    if as_json:
        screen.print_json(answer)
    else:
        print(f"{answer['model_id']} is {'pinned' if answer['pinned'] else 'not pinned'}")


def watched(client: "Client", jobs: Iterable[Job], timeout: float | None = None) -> list[Job]:
    """Show the jobs' progress, and return them once all have ended."""
    ended = []
    with screen.ProgressBars() as bars:
        for job in jobs:
            try:
                for job in client.progress(job["id"], timeout):  # noqa: B020 - the same job, updated
                    bars.show(job, " ".join(filter(None, (job["model_id"] or job["type"], job["node"]))))
            except KeyboardInterrupt:
                screen.note(f"job {job['id']} continues; `wanworks cancel {job['id']}` stops it")
                raise typer.Exit(ExitCode.INTERRUPTED) from None
            ended.append(job)
    return ended


def _result(job: Job) -> Mapping[str, Any]:
    return job["result"] or {}


def _verdicts(job: Job) -> Iterable[tuple[Any, ...]]:
    """Yield a row for each model, or one for each of its wrong files."""
    for model_id, model in _result(job).get("models", {}).items():
        score = f"{model['integrity_score']:.4f}"
        faults = model["faults"] or [{"path": None, "type": None}]
        for fault in faults:
            repaired = "yes" if fault["path"] in model["repaired"] else None
            yield model_id, job["node"], score, fault["path"], fault["type"], repaired


def _is_broken(job: Job) -> bool:
    return any(len(model["faults"]) > len(model["repaired"]) for model in _result(job).get("models", {}).values())


def _prepared_row(job: Job) -> tuple[Any, ...]:
    result = _result(job)
    sizes = (f"{result[name] / 1e9:.3f}" for name in ("bytes_written", "bytes_shared"))
    return job["model_id"], job["node"], ", ".join(result["copies"]) or "complete", *sizes, f"{result['seconds']:.1f}"


def _print_actions(rows: list[tuple[Any, ...]], unit: str) -> None:
    columns = ("action", "model", "node", "reason", "last used", unit)
    screen.print_table(columns, ((*row[:-1], f"{row[-1]:.3f}") for row in rows), wrapped=("reason",))
    screen.note(f"{sum(row[-1] for row in rows):.3f} {unit} in all")


def _action_row(action: Mapping[str, Any]) -> tuple[Any, ...]:
    return (
        action["action_type"],
        action["model_id"],
        action["node"],
        action["reason"],
        screen.moment(action["last_used"]),
    )


def _model_row(model: Mapping[str, Any]) -> tuple[Any, ...]:
    progress = model["download_progress"]
    status = model["availability_status"]
    return (
        model["model_id"],
        status if progress is None else f"{status} {progress:.0f} %",
        f"{model['size_mb'] / 1000:.3f}",
        ", ".join(replica["node"] for replica in model["replicas"] if replica["size_mb"]),
        _percent(model["integrity_score"]),
        ", ".join(model["loaded_on"]),
        f"{model['usage_frequency']:.2f}",
        (model["current_version"] or "")[:12],
        "yes" if model["update_available"] else None,
        "yes" if model["pinned"] else None,
    )


def _use_row(model: Mapping[str, Any]) -> tuple[Any, ...]:
    return (
        model["model_id"],
        model["total_uses"],
        f"{model['uses_per_day']:.2f}",
        rounded(model["average_generation_time"]),
        _percent(model["success_rate"]),
        ", ".join(map(str, model["peak_usage_hours"])),
    )


def _percent(fraction: float | None) -> str | None:
    return None if fraction is None else f"{100 * fraction:.1f} %"


def rounded(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds:.1f}"


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
