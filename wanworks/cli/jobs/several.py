"""`generate --count`: follow all videos of one request, and download each to a file of its own."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from wanworks.cli import screen
from wanworks.client.shapes import Job, succeeded, video_of, why_not
from wanworks.errors import ExitCode, WanworksError

if TYPE_CHECKING:
    from wanworks.client.client import AsyncClient


@dataclass(frozen=True)
class _Ended:
    """The outcome of one video: its file, or why there is none."""

    job: Job | None
    file: Path | None = None
    error: WanworksError | None = None


def numbered(out: Path | None, count: int) -> list[Path | None]:
    """Return a file for each video: boat-1.mp4, boat-2.mp4, ...; None: JOB-ID.FORMAT in the working directory."""
    if out is None:
        return [None] * count
    width = len(str(count))
    return [out.with_name(f"{out.stem}-{number:0{width}d}{out.suffix}") for number in range(1, count + 1)]


def run(
    address: str,
    job_ids: Sequence[str],
    out: Path | None,
    *,
    timeout: float | None,
    as_json: bool,
    told: Callable[[Sequence[Job]], None],
) -> None:
    """Follow the jobs to their ends. Raises `typer.Exit` with the worst exit code if one has no video.

    `told` is called with the jobs that made a video, unless JSON is printed.
    """
    with screen.ProgressBars() as bars:
        try:
            ended = asyncio.run(_all(address, job_ids, numbered(out, len(job_ids)), timeout, bars))
        except KeyboardInterrupt:
            screen.note(f"{len(job_ids)} jobs continue; `wanworks cancel ID` stops one: {' '.join(job_ids)}")
            raise typer.Exit(ExitCode.INTERRUPTED) from None
    if as_json:
        screen.print_json([_row(job_id, one) for job_id, one in zip(job_ids, ended, strict=True)])
    for one in ended:
        if one.error is not None:
            screen.note(one.error.message)
        elif not as_json:
            print(one.file)
    if not as_json:
        told([one.job for one in ended if one.job is not None and one.file is not None])
    codes = [one.error.exit_code for one in ended if one.error is not None]
    if codes:
        raise typer.Exit(max(codes))


async def _all(
    address: str, job_ids: Sequence[str], files: Sequence[Path | None], timeout: float | None, bars: screen.ProgressBars
) -> list[_Ended]:
    from wanworks.client.client import AsyncClient, Retry

    async with AsyncClient(address, retry=Retry(at_first=False)) as client:
        return await asyncio.gather(
            *(_one(client, job_id, to, timeout, bars) for job_id, to in zip(job_ids, files, strict=True))
        )


async def _one(
    client: "AsyncClient", job_id: str, to: Path | None, timeout: float | None, bars: screen.ProgressBars
) -> _Ended:
    """Follow one job and download its video. The others go on if it fails."""
    job: Job | None = None
    try:
        async for job in client.progress(job_id, timeout):
            bars.show(job, job_id)
        assert job is not None
        video = video_of(job)
        if not succeeded(job) or video is None:
            raise WanworksError(why_not(job) if not succeeded(job) else f"job {job_id} has no video")
        file = to or Path(f"{job_id}{Path(video['name']).suffix}")
        await client.download(video, file)
        return _Ended(job, file)
    except OSError as error:
        return _Ended(job, error=WanworksError(f"--out {to or job_id}: {error.strerror or error}"))
    except WanworksError as error:
        return _Ended(job, error=error)


def _row(job_id: str, one: _Ended) -> dict[str, object]:
    job = {"id": job_id} if one.job is None else dict(one.job)
    return {**job, "out": str(one.file) if one.file else None, "failure": one.error.message if one.error else None}
