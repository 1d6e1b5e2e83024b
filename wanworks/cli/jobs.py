"""The commands for jobs: submit, show, cancel, share."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from wanworks.cli import bulk, operating, screen, several
from wanworks.cli.options import AsJson, Home, Url, client_of
from wanworks.cli.targets import check_target
from wanworks.client.client import Client, Job, succeeded, video_of, why_not
from wanworks.client.shapes import DeviceRow, JobFilter, NodeRow
from wanworks.errors import ApiRefused, ConfigurationError, ExitCode, WanworksError

_many = typer.Typer(help="List jobs; or cancel, retry, delete or reorder all that match.", invoke_without_command=True)


def register(app: typer.Typer) -> None:
    for command in (generate, job, share, cancel, workers):
        app.command()(command)
    _many.callback()(jobs)
    for action in bulk.COMMANDS:
        _many.command()(action)
    app.add_typer(_many, name="jobs")


def generate(
    prompt: Annotated[str | None, typer.Argument(help="What the video shows.")] = None,
    model: Annotated[str | None, typer.Option(help="[T2V-A14B; I2V-A14B with --image]")] = None,
    image: Annotated[Path | None, typer.Option(help="PNG, JPEG or WebP to start from.")] = None,
    last_image: Annotated[Path | None, typer.Option(help="Picture with which the video ends; needs --image.")] = None,
    fit: Annotated[str | None, typer.Option(help="How pictures meet the size: cover, contain or auto. [cover]")] = None,
    resolution: Annotated[str | None, typer.Option(help="For example 1280x720. [the model's own]")] = None,
    frames: Annotated[int | None, typer.Option(help="[the model's own]")] = None,
    fps: Annotated[int | None, typer.Option(help="[the model's own]")] = None,
    output_format: Annotated[str | None, typer.Option("--format", help="mp4 or webm. [as --out, else mp4]")] = None,
    steps: Annotated[int | None, typer.Option(help="[the model's own]")] = None,
    seed: Annotated[int | None, typer.Option(help="[random, and recorded]")] = None,
    count: Annotated[
        int | None, typer.Option(help="Videos to make, with the seeds from --seed on; at most 16. [1]", min=1, max=16)
    ] = None,
    speed: Annotated[str | None, typer.Option(help="exact, balanced or fast. [the server's default]")] = None,
    devices: Annotated[
        int | None, typer.Option(help="Devices of one node that compute it together: 1, 2, 4 or 8. [the model's own]")
    ] = None,
    priority: Annotated[str | None, typer.Option(help="critical, high, normal or low. [normal]")] = None,
    start_after: Annotated[str | None, typer.Option(help="Do not start before: 2026-01-31T22:00:00+01:00.")] = None,
    start_before: Annotated[str | None, typer.Option(help="Fail if not started by then: a time as above.")] = None,
    max_attempts: Annotated[
        int | None, typer.Option(help="Crashes and lost workers after which it fails. [the server's own]")
    ] = None,
    retry_backoff: Annotated[
        float | None, typer.Option(help="Seconds until the second attempt; doubles. [the server's own]")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only tell what the video would cost and when it would start.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File for the video; with --count NAME-1.mp4 and so on; or a batch's folder. [JOB-ID.FORMAT]"
        ),
    ] = None,
    batch: Annotated[Path | None, typer.Option(help="Run a batch: a file with one JSON request per line.")] = None,
    concurrency: Annotated[
        int | None, typer.Option(help="Videos of a batch that are followed and downloaded at once. [4]", min=1, max=32)
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Submit a batch's failed lines again.")] = False,
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait; the job continues. [no limit]")] = None,
    url: Url = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Submit a generation, show its progress, and download the video; or run a batch from a file.

    Run the same command again to continue an interrupted batch.
    """
    if batch is not None:
        in_the_file = (
            prompt,
            model,
            image,
            last_image,
            fit,
            resolution,
            frames,
            fps,
            output_format,
            steps,
            seed,
            count,
            speed,
            devices,
            priority,
            start_after,
            start_before,
            max_attempts,
            retry_backoff,
            dry_run or None,
        )
        if any(value is not None for value in in_the_file):
            raise typer.BadParameter("--batch takes the request's fields from the lines of the file, not from options")
        if out is None:
            raise typer.BadParameter("--batch needs --out, the folder for its videos")
        from wanworks.cli.batches.batch import run

        run(batch, out, url=url, home=home, concurrency=concurrency or 4, retry_failed=retry_failed, timeout=timeout,
            as_json=as_json)  # fmt: skip
        return
    if prompt is None:
        raise typer.BadParameter("Missing argument 'PROMPT'")
    if concurrency is not None or retry_failed:
        raise typer.BadParameter("--concurrency and --retry-failed are for --batch")
    request: dict[str, Any] = {
        "model_id": model or ("I2V-A14B" if image else "T2V-A14B"),
        "prompt": prompt,
        "image": read_image(image) if image else None,
        "last_image": read_image(last_image, "--last-image") if last_image else None,
        "fit": fit,
        "resolution": resolution,
        "frames": frames,
        "fps": fps,
        "output_format": output_format or ("webm" if out and out.suffix == ".webm" else None),
        "steps": steps,
        "seed": seed,
        "count": count,
        "speed": speed,
        "devices_per_job": devices,
        "priority": priority,
        "start_after": start_after,
        "start_before": start_before,
        "max_attempts": max_attempts,
        "retry_backoff_seconds": retry_backoff,
    }
    request = {name: value for name, value in request.items() if value is not None}
    if dry_run:
        with client_of(url, home) as client:
            operating.show_dry_run(client.dry_run(**request), as_json=as_json)
        return
    for target in several.numbered(out, count) if count is not None and count > 1 else [out]:
        check_target(target)
    if count is not None and count > 1:
        with client_of(url, home) as client:
            first = client.generate(**request)
        several.run(client.url, first["job_ids"], out, timeout=timeout, as_json=as_json)
        return
    with client_of(url, home) as client, screen.ProgressBars() as bars:
        job = submitted = client.generate(**request)
        try:
            for job in client.progress(submitted["id"], timeout):
                bars.show(job, job["id"])
        except KeyboardInterrupt:
            screen.note(f"job {job['id']} continues; `wanworks cancel {job['id']}` stops it")
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        video = fetch_video(client, job, out) if succeeded(job) else None
    if as_json:
        screen.print_json({**job, "out": str(video) if video else None})
    if video is None:
        raise ApiRefused(why_not(job))
    if not as_json:
        print(video)


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
        page = client.jobs_page(**cast(JobFilter, which), limit=limit, after=after)
    if as_json:
        screen.print_json(page)
        return
    columns = ("id", "type", "model", "status", "percent", "device", "created")
    screen.print_table(columns, (_row(job) for job in page["data"]))
    if page["has_more"]:
        screen.note(f"more: --after {page['next']}")


def job(
    job_id: Annotated[str, typer.Argument(metavar="ID")],
    url: Url = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show one job. The exit code is 1 if it failed or was cancelled."""
    with client_of(url, home) as client:
        found = client.job(job_id)
    if as_json:
        screen.print_json(found)
    else:
        screen.print_fields(_fields(found))
    if found["status"] in ("failed", "cancelled"):
        raise typer.Exit(ExitCode.REFUSED)


def share(
    job_id: Annotated[str, typer.Argument(metavar="ID")],
    file: Annotated[str | None, typer.Option(help="Name of the artifact. [the video]")] = None,
    seconds: Annotated[int, typer.Option(min=1, max=604_800, help="How long the link is valid.")] = 3600,
    url: Url = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Print a link to a job's video that needs no key and expires."""
    with client_of(url, home) as client:
        found = client.job(job_id)
        made = found["result"]["artifacts"] if found["result"] is not None else []
        wanted = video_of(found) if file is None else next((one for one in made if one["name"] == file), None)
        if wanted is None:
            there = ", ".join(one["name"] for one in made) or "none"
            raise ConfigurationError(f"job {job_id} ({found['status']}) has no such artifact; available: {there}")
        link = client.share(wanted, seconds)
        address = client.address(link["url"])
    if as_json:
        screen.print_json({"url": address, "expires_at": link["expires_at"]})
    else:
        print(address)


def cancel(
    job_id: Annotated[str, typer.Argument(metavar="ID")],
    url: Url = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Cancel a job."""
    with client_of(url, home) as client:
        found = client.cancel(job_id)
    if as_json:
        screen.print_json(found)
    else:
        print(f"{found['id']} {found['status']}")


def workers(url: Url = None, home: Home = None, as_json: AsJson = False) -> None:
    """Show the devices with their loaded models and running jobs."""
    with client_of(url, home) as client:
        found = client.workers()
    if as_json:
        screen.print_json(found)
        return
    columns = ("worker", "state", "job", "loaded", "device", "last seen")
    screen.print_table(columns, map(_device_row, found["devices"]))
    print()
    screen.print_table(("node", "state", "version", "free disk MB", "last seen"), map(_node_row, found["nodes"]))


def fetch_video(client: Client, job: Job, out: Path | None) -> Path:
    """Download the job's video to `out`, or to JOB-ID.FORMAT here. Raises ApiRefused if it has none."""
    if (video := video_of(job)) is None:
        raise ApiRefused(f"job {job['id']} has no video")
    target = out or Path(f"{job['id']}{Path(video['name']).suffix}")
    try:
        client.download(video, target)
    except OSError as error:
        raise WanworksError(f"--out {target}: {error.strerror or error}") from None
    return target


def read_image(path: Path, option: str = "--image") -> bytes:
    """Return the file's bytes. Raises ConfigurationError if it cannot be read. The API decodes and checks it."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{option} {path}: {error.strerror}") from None


def _row(job: Job) -> tuple[Any, ...]:
    return (
        job["id"],
        job["type"],
        job["model_id"],
        job["status"],
        f"{screen.percent(job):.0f}",
        job["device"],
        job["created_at"],
    )


def _device_row(device: DeviceRow) -> tuple[Any, ...]:
    finishing = device.get("finishing_job")  # servers before this field do not send it
    loaded = (f"{warm['model_id']} ({warm['quantization']})" for warm in device["warm"])
    return (
        device["worker"],
        device["state"],
        " ".join(filter(None, (device["job"], finishing and f"(finishing {finishing})"))) or None,
        ", ".join(loaded),
        device["name"],
        device["last_seen"],
    )


def _node_row(node: NodeRow) -> tuple[Any, ...]:
    free = node["disk_free_mb"]
    return node["name"], node["state"], node["version"], None if free is None else f"{free:.0f}", node["last_seen"]


def _fields(job: Job) -> dict[str, Any]:
    result: Mapping[str, Any] = job["result"] or {}
    return {
        "id": job["id"],
        "type": job["type"],
        "model": job["model_id"],
        "node": job["node"],
        "status": job["status"],
        "now": screen.doing(job) if job["status"] in ("queued", "running") else None,
        "percent": f"{screen.percent(job):.0f}",
        "priority": job["priority"],
        "attempt": job["attempt"],
        "device": job["device"],
        "GPU seconds": None if (held := job.get("gpu_seconds")) is None else f"{held:.1f}",
        "created": job["created_at"],
        "started": job["started_at"],
        "finished": job["finished_at"],
        "error": f"{job['error']['message']} ({job['error']['code']})" if job["error"] else None,
        "video": (
            "{width}x{height}, {frames} frames, {fps:g} fps, seed {seed}".format(**result)
            if "width" in result
            else None
        ),
        "artifacts": " ".join(artifact["url"] for artifact in result.get("artifacts", ())),
    }
