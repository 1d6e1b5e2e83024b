"""The commands that speak to the API: submit, look, cancel."""

import base64
import mimetypes
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from cli import screen
from cli.client import Client, Job, find_url, succeeded
from cli.errors import ApiRefused, ExitCode
from shared.errors import ConfigurationError
from shared.settings import load

Url = Annotated[str | None, typer.Option(help="The API. [WANWORKS_URL, else the stack on the home]", metavar="URL")]
Home = Annotated[Path | None, typer.Option(help="Home of the stack to speak to. [WANWORKS_HOME, ~/.wanworks]")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def register(app: typer.Typer) -> None:
    for command in (generate, jobs, job, cancel, workers):
        app.command()(command)


def generate(
    prompt: Annotated[str, typer.Argument(help="What the video shows.")],
    model: Annotated[str | None, typer.Option(help="[T2V-A14B; I2V-A14B with --image]")] = None,
    image: Annotated[Path | None, typer.Option(help="PNG, JPEG or WebP to start from.")] = None,
    resolution: Annotated[str | None, typer.Option(help="For example 1280x720. [the model's own]")] = None,
    frames: Annotated[int | None, typer.Option(help="[the model's own]")] = None,
    fps: Annotated[int | None, typer.Option(help="[the model's own]")] = None,
    output_format: Annotated[str | None, typer.Option("--format", help="mp4 or webm. [as --out, else mp4]")] = None,
    steps: Annotated[int | None, typer.Option(help="[the model's own]")] = None,
    seed: Annotated[int | None, typer.Option(help="[drawn and recorded]")] = None,
    priority: Annotated[str | None, typer.Option(help="critical, high, normal or low. [normal]")] = None,
    out: Annotated[Path | None, typer.Option(help="File for the video. [JOB-ID.FORMAT]")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait; the job goes on. [no limit]")] = None,
    url: Url = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Submit a generation, show its progress, and fetch the video."""
    request = {
        "model_id": model or ("I2V-A14B" if image else "T2V-A14B"),
        "prompt": prompt,
        "image": data_url(image) if image else None,
        "resolution": resolution,
        "frames": frames,
        "fps": fps,
        "output_format": output_format or ("webm" if out and out.suffix == ".webm" else None),
        "steps": steps,
        "seed": seed,
        "priority": priority,
    }
    with client_of(url, home) as client, screen.ProgressBars() as bars:
        job = submitted = client.generate({name: value for name, value in request.items() if value is not None})
        try:
            for job in client.watch(submitted["id"], timeout):
                bars.show(job, job["id"])
        except KeyboardInterrupt:
            screen.say(f"job {job['id']} goes on; `wanworks cancel {job['id']}` stops it")
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        video = fetch_video(client, job, out) if succeeded(job) else None
    if as_json:
        screen.print_json({**job, "out": str(video) if video else None})
    if video is None:
        raise ApiRefused(why_not(job))
    if not as_json:
        print(video)


def jobs(
    type: Annotated[str | None, typer.Option(help="generation, download, ...")] = None,
    status: Annotated[str | None, typer.Option(help="queued, running, succeeded, ...")] = None,
    model: Annotated[str | None, typer.Option(help="A model_id.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many, newest first.", min=1, max=100)] = 20,
    after: Annotated[str | None, typer.Option(help="Cursor from the page before.")] = None,
    url: Url = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    with client_of(url, home) as client:
        page = client.jobs(type=type, status=status, model_id=model, limit=limit, after=after)
    if as_json:
        screen.print_json(page)
        return
    columns = ("id", "type", "model", "status", "percent", "device", "created")
    screen.print_table(columns, (_row(job) for job in page["data"]))
    if page["has_more"]:
        screen.say(f"more: --after {page['next']}")


def job(
    job_id: Annotated[str, typer.Argument(metavar="ID")],
    url: Url = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show one job. Exit code 1 where it failed or was cancelled."""
    with client_of(url, home) as client:
        found = client.job(job_id)
    if as_json:
        screen.print_json(found)
    else:
        screen.print_fields(_fields(found))
    if found["status"] in ("failed", "cancelled"):
        raise typer.Exit(ExitCode.REFUSED)


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
    """Show the devices, what each has loaded and what it runs."""
    with client_of(url, home) as client:
        found = client.workers()
    if as_json:
        screen.print_json(found)
        return
    columns = ("worker", "state", "job", "loaded", "device", "last seen")
    screen.print_table(
        columns,
        (
            (
                device["worker"],
                device["state"],
                device["job"],
                ", ".join(f"{warm['model_id']} ({warm['quantization']})" for warm in device["warm"]),
                device["name"],
                device["last_seen"] or "",
            )
            for device in found["devices"]
        ),
    )
    print()
    screen.print_table(
        ("node", "state", "version", "free disk MB", "last seen"),
        (
            (node["name"], node["state"], node["version"], f"{node['disk_free_mb'] or 0:.0f}", node["last_seen"] or "")
            for node in found["nodes"]
        ),
    )


def fetch_video(client: Client, job: Job, out: Path | None) -> Path:
    """The job's video, written to `out`, or to JOB-ID.FORMAT here. Raises ApiRefused where it has none."""
    for artifact in (job["result"] or {"artifacts": []})["artifacts"]:
        if artifact["content_type"].startswith("video/"):
            target = out or Path(f"{job['id']}{Path(artifact['name']).suffix}")
            client.download(artifact["url"], target)
            return target
    raise ApiRefused(f"job {job['id']} has no video")


def why_not(job: Job) -> str:
    error = job["error"]
    return f"job {job['id']} {job['status']}" + (f": {error['message']} ({error['code']})" if error else "")


def client_of(url: str | None, home: Path | None) -> Client:
    """A client of the API that the options mean. Raises ApiUnreachable."""
    return Client(find_url(url, load(home=home).home))


def data_url(image: Path) -> str:
    """The image as the API takes it in JSON. The API decodes and judges it; here only the file must be readable."""
    kind = mimetypes.guess_type(image.name)[0] or "application/octet-stream"
    try:
        content = image.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"--image {image}: {error.strerror}") from None
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


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
