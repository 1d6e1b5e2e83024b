"""`generate --batch`: run the generations in a file, and download the videos to a folder.

Every step is recorded on disk before the next, and every request carries a permanent key of its lines. The same
command therefore continues after any interruption, `kill -9` included, and submits or downloads nothing twice.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import anyio.to_thread
import typer

from wanworks.cli import screen
from wanworks.cli.batches.batch_file import Line, read_batch
from wanworks.cli.batches.batch_record import BatchRecord, Standing
from wanworks.cli.batches.batch_submission import Submission
from wanworks.cli.options import find_url
from wanworks.cli.targets import check_target
from wanworks.client.client import AsyncClient, Retry, succeeded, video_of, why_not
from wanworks.client.fetching import is_whole
from wanworks.errors import BadRequest, ExitCode, NotThere, TimedOut, TransferBroken, WanworksError

# Longer than a single command's: a batch runs unattended, and a full queue will have space again.
_PATIENCE = Retry(seconds=300.0, at_first=False)
_AT_ONCE = Retry(seconds=0.0, at_first=False)


@dataclass(frozen=True)
class Made:
    """The result of one line."""

    line: Line
    standing: Standing

    @property
    def failure(self) -> str | None:
        return self.standing.failure


def run(
    path: Path,
    folder: Path,
    *,
    url: str | None,
    home: Path | None,
    concurrency: int,
    retry_failed: bool,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Run a batch. Raises `typer.Exit` 1 if a line failed; ConfigurationError for an invalid file."""
    lines = read_batch(path)
    address = find_url(url, home)
    with BatchRecord(folder) as record, screen.ProgressBars(whole=len(lines)) as bars:
        for line in lines:
            name = f"{line.name}.{line.fields.get('output_format') or 'mp4'}"
            check_target(folder / name, f"--batch {path}: line {line.number}:")
        batch = _Batch(lines, folder, record, bars, name=path.name[:200], retry_failed=retry_failed, quiet=as_json)
        try:
            asyncio.run(batch.run(address, concurrency, timeout))
        except KeyboardInterrupt:
            screen.note("submitted jobs continue; run the same command again to continue from here")
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        except OSError as error:
            raise WanworksError(f"{error.filename or folder}: {error.strerror or error}") from None
    failed = [made for made in batch.made if made.failure]
    if as_json:
        screen.print_json({"made": len(lines) - len(failed), "failed": len(failed), "lines": _rows(batch.made)})
    screen.note(f"{len(lines) - len(failed)} of {len(lines)} videos are in {folder}")
    if failed:
        screen.note(f"{len(failed)} failed; --retry-failed submits them again:")
        for made in failed:
            screen.note(f"  {made.line.label}: {made.failure}")
        raise typer.Exit(ExitCode.REFUSED)


class _Batch:
    """One run of the batch."""

    def __init__(
        self,
        lines: Sequence[Line],
        folder: Path,
        record: BatchRecord,
        bars: screen.ProgressBars,
        *,
        name: str,
        retry_failed: bool,
        quiet: bool,
    ) -> None:
        self.made: list[Made] = []
        self._lines, self._folder, self._record, self._bars = lines, folder, record, bars
        self._name, self._retry_failed, self._quiet = name, retry_failed, quiet
        self._passed_on = 0  # lines that are submitted, or were refused

    async def run(self, address: str, concurrency: int, timeout: float | None) -> None:
        """Submit all lines, and run each to its end. Raises TimedOut, or the first error that affects every line."""
        for line in self._lines if self._retry_failed else ():
            if (standing := self._record.of(line.key)).failure:
                self._record.again(standing)
        waiting: asyncio.Queue[Line | None] = asyncio.Queue()
        try:
            async with (
                asyncio.timeout(timeout),
                AsyncClient(address, retry=_AT_ONCE) as quick,
                AsyncClient(address, retry=_PATIENCE) as client,
                asyncio.TaskGroup() as group,
            ):
                group.create_task(self._submit(waiting, quick, client, concurrency))
                for _ in range(min(concurrency, len(self._lines))):
                    group.create_task(self._take(waiting, client))
        except TimeoutError:
            ended = f"{len(self.made)} of {len(self._lines)} had ended"
            raise TimedOut(
                f"{ended} after {timeout:g} s; the jobs continue; run the same command again to continue"
            ) from None
        except ExceptionGroup as several:
            raise several.exceptions[0] from None

    async def _submit(
        self, waiting: "asyncio.Queue[Line | None]", quick: AsyncClient, client: AsyncClient, concurrency: int
    ) -> None:
        """Submit the lines, and pass on each whose state is known: the earlier ones first."""
        for line in self._lines:
            if (standing := self._record.of(line.key)).job or standing.failure:
                self._passed_on += 1
                waiting.put_nowait(line)
        submission = Submission(self._lines, self._record, self._name, lambda: len(self.made) < self._passed_on)
        async for line in submission.run(quick, client):
            self._passed_on += 1
            waiting.put_nowait(line)
        for _ in range(concurrency):
            waiting.put_nowait(None)

    async def _take(self, waiting: "asyncio.Queue[Line | None]", client: AsyncClient) -> None:
        while (line := await waiting.get()) is not None:
            standing = await self._carried(line, client)
            self.made.append(Made(line, standing))
            failed = sum(1 for made in self.made if made.failure)
            self._bars.count(
                len(self.made), f"{len(self.made)}/{len(self._lines)}" + (f", {failed} failed" if failed else "")
            )
            if standing.failure:
                screen.note(f"{line.label}: {standing.failure}")
            elif not self._quiet:
                print(self._folder / str(standing.file), flush=True)

    async def _carried(self, line: Line, client: AsyncClient) -> Standing:
        """Run one submitted line to its end."""
        standing = self._record.of(line.key)
        if standing.failure or await self._is_there(standing):
            return standing
        try:
            return await self._fetched(line, standing, client)
        except TransferBroken as error:
            return replace(
                standing, failure=error.message
            )  # not recorded: the video exists and can be downloaded later
        except (BadRequest, NotThere) as error:
            return self._record.note(replace(standing, failure=error.message))

    async def _fetched(self, line: Line, standing: Standing, client: AsyncClient) -> Standing:
        job_id = standing.job or ""
        try:
            async for job in client.progress(job_id):
                self._bars.show(job, line.label)
        finally:
            self._bars.hide(job_id)
        video = video_of(job)
        if not succeeded(job) or video is None:
            return self._record.note(replace(standing, failure=why_not(job)))
        name = standing.file or f"{line.name}{Path(video['name']).suffix}"
        await client.download(video, self._folder / name)
        return self._record.note(replace(standing, file=name, bytes=video["bytes"], sha256=video["sha256"]))

    async def _is_there(self, standing: Standing) -> bool:
        if standing.file is None or standing.bytes is None or standing.sha256 is None:
            return False
        path = self._folder / standing.file
        return await anyio.to_thread.run_sync(partial(is_whole, path, standing.bytes, standing.sha256))


def _rows(made: Sequence[Made]) -> list[dict[str, object]]:
    return [
        {
            "line": each.line.number,
            "name": each.line.name,
            "job": each.standing.job,
            "file": each.standing.file,
            "failure": each.failure,
        }
        for each in sorted(made, key=lambda each: each.line.number)
    ]
