"""`wanworks generate`: submit a video, show its progress, and download it; or run a batch from a file."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from wanworks.cli import operating, screen
from wanworks.cli.jobs import several
from wanworks.cli.jobs.following import finish, followed
from wanworks.cli.jobs.naming import how_to_share
from wanworks.cli.options import AsJson, Home, Url, client_of
from wanworks.cli.targets import check_target
from wanworks.client.shapes import Job
from wanworks.errors import ConfigurationError


def generate(
    prompt: Annotated[str | None, typer.Argument(help="What the video shows.")] = None,
    model: Annotated[str | None, typer.Option(help="[T2V-A14B; I2V-A14B with --image]")] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What it shall not show. [the model's own]")] = None,
    image: Annotated[Path | None, typer.Option(help="PNG, JPEG or WebP to start from.")] = None,
    last_image: Annotated[Path | None, typer.Option(help="Picture with which the video ends; needs --image.")] = None,
    fit: Annotated[str | None, typer.Option(help="How pictures meet the size: cover, contain or auto. [cover]")] = None,
    resolution: Annotated[str | None, typer.Option(help="For example 1280x720. [the model's own]")] = None,
    frames: Annotated[int | None, typer.Option(help="[the model's own]")] = None,
    fps: Annotated[int | None, typer.Option(help="[the model's own]")] = None,
    output_format: Annotated[str | None, typer.Option("--format", help="mp4 or webm. [as --out, else mp4]")] = None,
    steps: Annotated[int | None, typer.Option(help="[the model's own]")] = None,
    guidance: Annotated[float | None, typer.Option(help="How closely it follows the prompt. [the model's own]")] = None,
    guidance_2: Annotated[float | None, typer.Option(help="The same for the second expert. [as --guidance]")] = None,
    flow_shift: Annotated[float | None, typer.Option(help="Shift of the noise schedule. [the model's own]")] = None,
    seed: Annotated[int | None, typer.Option(help="[random, and recorded]")] = None,
    count: Annotated[
        int | None, typer.Option(help="Videos to make, with the seeds from --seed on; at most 16. [1]", min=1, max=16)
    ] = None,
    lora: Annotated[list[str] | None, typer.Option(help="NAME or NAME=SCALE; may be repeated.")] = None,
    quantization: Annotated[str | None, typer.Option(help="none, bf16, fp16, int8 or fp8. [none]")] = None,
    speed: Annotated[str | None, typer.Option(help="exact, balanced or fast. [the server's default]")] = None,
    devices: Annotated[
        int | None, typer.Option(help="Devices of one node that compute it together: 1, 2, 4 or 8. [the model's own]")
    ] = None,
    fallback: Annotated[
        list[str] | None, typer.Option(help="What may replace a model that cannot serve; may be repeated.")
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
    webhook: Annotated[str | None, typer.Option(help="URL that receives a message when it has ended.")] = None,
    webhook_progress: Annotated[bool, typer.Option("--webhook-progress", help="Messages on progress too.")] = False,
    metadata: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, kept with the job; may be repeated.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only tell what the video would cost and when it would start.")
    ] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Only submit it and print its id.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File for the video; with --count NAME-1.mp4 and so on; or a batch's folder. [JOB-ID.FORMAT]"
        ),
    ] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open the video in this machine's player.")] = False,
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
    asked: dict[str, Any] = {
        "model_id": model,
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "image": image,
        "last_image": last_image,
        "fit": fit,
        "resolution": resolution,
        "frames": frames,
        "fps": fps,
        "output_format": output_format,
        "steps": steps,
        "guidance_scale": guidance,
        "guidance_scale_2": guidance_2,
        "flow_shift": flow_shift,
        "seed": seed,
        "count": count,
        "loras": _loras(lora) if lora else None,
        "quantization": quantization,
        "speed": speed,
        "devices_per_job": devices,
        "fallback": fallback or None,
        "priority": priority,
        "start_after": start_after,
        "start_before": start_before,
        "max_attempts": max_attempts,
        "retry_backoff_seconds": retry_backoff,
        "webhook_url": webhook,
        "webhook_progress": webhook_progress or None,
        "metadata": _labels(metadata) if metadata else None,
    }
    request = {name: value for name, value in asked.items() if value is not None}
    if batch is not None:
        if request or dry_run or no_wait or open_it:
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
    if no_wait and (out is not None or open_it or timeout is not None):
        raise typer.BadParameter("--no-wait downloads nothing; give --out and --open to `wanworks fetch` later")
    request.setdefault("model_id", "I2V-A14B" if image else "T2V-A14B")
    if image is not None:
        request["image"] = read_image(image)
    if last_image is not None:
        request["last_image"] = read_image(last_image, "--last-image")
    if out is not None and out.suffix == ".webm":
        request.setdefault("output_format", "webm")
    if dry_run:
        with client_of(url, home) as client:
            operating.show_dry_run(client.dry_run(**request), as_json=as_json)
        return
    several_videos = count is not None and count > 1
    if not no_wait:
        for target in several.numbered(out, count) if count is not None and several_videos else [out]:
            check_target(target)
    with client_of(url, home) as client:
        job = client.generate(**request)
        made = job["job_ids"] if several_videos else [job["id"]]
        if no_wait:
            screen.print_json(job) if as_json else print("\n".join(made))
            return
        if several_videos:
            several.run(client.url, made, out, timeout=timeout, as_json=as_json, told=partial(_tell, url, home))
            return
        ended = followed(client, job, timeout)
        finish(client, ended, out, open_it=open_it, as_json=as_json)
        if not as_json:
            _tell(url, home, [ended])


def _tell(url: str | None, home: Path | None, made: Sequence[Job]) -> None:
    """Say how to share the videos, to a person at a terminal."""
    options = ["--url", url] if url is not None else ["--home", str(home)] if home is not None else []
    if made and screen.err().is_terminal:
        for line in how_to_share(made, options):
            screen.note(line)


def read_image(path: Path, option: str = "--image") -> bytes:
    """Return the file's bytes. Raises ConfigurationError if it cannot be read. The API decodes and checks it."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{option} {path}: {error.strerror}") from None


def _loras(given: Sequence[str]) -> list[dict[str, Any]]:
    loras: list[dict[str, Any]] = []
    for text in given:
        name, equals, scale = text.partition("=")
        try:
            loras.append({"name": name, "scale": float(scale)} if equals else {"name": name})
        except ValueError:
            raise ConfigurationError(f"--lora {text}: {scale!r} is not a number; write NAME or NAME=SCALE") from None
    return loras


def _labels(given: Sequence[str]) -> dict[str, str]:
    if wrong := [text for text in given if not text.partition("=")[1]]:
        raise ConfigurationError(f"--metadata: {wrong[0]!r} is not NAME=VALUE")
    return dict(text.split("=", 1) for text in given)
