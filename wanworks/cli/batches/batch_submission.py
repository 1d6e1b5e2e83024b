"""Submit the lines of a batch file, many at once.

Which lines are sent together is on disk before they are sent, with a permanent key. So after an interruption the same
request is sent again, and the server answers with the batch that it has, if it has it.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread

from wanworks.cli.batches.batch_file import Line
from wanworks.cli.batches.batch_record import BatchRecord, Sent
from wanworks.client.calls import data_url
from wanworks.client.client import AsyncClient
from wanworks.client.shapes import Batch
from wanworks.errors import ApiUnreachable, BadRequest, NotThere, TooBusy, WanworksError, WrongField

MOST_LINES = 1000
MOST_BYTES = 24 * 10**6  # of one request; the server reads 64 MB
_LIMIT = "limit_reached"
_WAIT_SECONDS = 5.0
_OF_JOB = re.compile(r"jobs\.(\d+)(?:\.(?:params\.)?(.*))?")


class Submission:
    """The lines that are still to be submitted."""

    def __init__(self, lines: Sequence[Line], record: BatchRecord, name: str, going: Callable[[], bool]) -> None:
        """`going`: whether submitted jobs have not ended yet, so that a full queue will have space again."""
        self._lines = {line.key: line for line in lines}
        self._record = record
        self._name = name
        self._going = going

    async def run(self, quick: AsyncClient, patient: AsyncClient) -> AsyncIterator[Line]:
        """Submit all lines, and yield each whose job is known or that was refused.

        `quick` repeats no request, so that a smaller one can be sent; `patient` does.
        """
        for sent in self._record.unanswered():
            if all(key in self._lines for key, _ in sent.lines):
                async for line in self._send(sent, quick, patient):
                    yield line
        lacking = [line for line in self._lines.values() if self._lacks(line)]
        for chunk in _chunks(lacking):
            waiting = [chunk]
            while waiting:
                now = waiting.pop()
                if len(now) == 1 and self._record.one_by_one:
                    yield await self._alone(now[0], patient)
                    continue
                if self._record.one_by_one:
                    waiting += [[line] for line in reversed(now)]
                    continue
                sent = Sent(self._name, [(line.key, self._record.of(line.key).round) for line in now])
                self._record.note_sent(sent)
                try:
                    async for line in self._send(sent, quick, patient):
                        yield line
                except _TooMany:
                    half = len(now) // 2
                    waiting += [now[half:], now[:half]]
                except NotThere:
                    self._record.one_by_one = True
                    waiting.append(now)

    def _lacks(self, line: Line) -> bool:
        standing = self._record.of(line.key)
        return standing.job is None and standing.failure is None and standing.file is None

    async def _send(self, sent: Sent, quick: AsyncClient, patient: AsyncClient) -> AsyncIterator[Line]:
        """Submit the lines together. Those that the server refuses are recorded as failed, and the others sent again.

        Raises _TooMany if there is no room for all of them, and NotThere if the server has no batches.
        """
        while sent.lines:
            lines = [self._lines[key] for key, _ in sent.lines]
            try:
                batch = await self._batch(sent, lines, quick, patient)
            except BadRequest as error:
                refused = _refused(error.fields, len(lines))
                if not refused:
                    raise
                for place, message in refused.items():
                    self._record.note(replace(self._record.of(lines[place].key), failure=message))
                    yield lines[place]
                sent = Sent(sent.name, [each for place, each in enumerate(sent.lines) if place not in refused])
                if sent.lines:
                    self._record.note_sent(sent)
                continue
            if len(batch["jobs"]) != len(lines):
                raise WanworksError(
                    f"batch {batch['id']} has {len(batch['jobs'])} jobs left of {len(lines)}: some were deleted"
                )
            known = [
                replace(self._record.of(line.key), job=job["id"])
                for line, job in zip(lines, batch["jobs"], strict=True)
            ]
            self._record.note_all(known)
            for line in lines:
                yield line
            return

    async def _batch(self, sent: Sent, lines: Sequence[Line], quick: AsyncClient, patient: AsyncClient) -> Batch:
        body = await anyio.to_thread.run_sync(partial(_body, lines))
        submit: dict[str, Any] = {"name": sent.name, "idempotency_key": self._record.key_of(sent)}
        while True:
            try:
                return await quick.create_batch(body, **submit)
            except TooBusy as error:
                if error.problem_code != _LIMIT:
                    return await patient.create_batch(body, **submit)
                if len(lines) > 1:
                    raise _TooMany() from None
                if not self._going():
                    raise
                await asyncio.sleep(_WAIT_SECONDS)
            except ApiUnreachable:
                return await patient.create_batch(body, **submit)

    async def _alone(self, line: Line, client: AsyncClient) -> Line:
        """Submit one line as a job of its own, to a server without batches or for a record that was begun so."""
        standing = self._record.of(line.key)
        try:
            key = self._record.idempotency_key(standing)
            job = await client.generate(
                **line.fields, image=line.image, last_image=line.last_image, idempotency_key=key
            )
            self._record.note(replace(standing, job=job["id"]))
        except BadRequest as error:
            self._record.note(replace(standing, failure=error.message))
        return line


class _TooMany(Exception):
    """The key's queue has no room for so many jobs."""


def _chunks(lines: Sequence[Line]) -> list[list[Line]]:
    """Divide the lines into requests of a bearable size."""
    found: list[list[Line]] = []
    size = 0
    for line in lines:
        own = len(json.dumps(line.fields)) + sum(map(_encoded_bytes, line.pictures.values()))
        if not found or len(found[-1]) >= MOST_LINES or size + own > MOST_BYTES:
            found.append([])
            size = 0
        found[-1].append(line)
        size += own
    return found


def _encoded_bytes(image: Path) -> int:
    return image.stat().st_size * 4 // 3 + 100


def _body(lines: Sequence[Line]) -> list[dict[str, Any]]:
    jobs = []
    for line in lines:
        pictures = {field: data_url(path.read_bytes()) for field, path in line.pictures.items()}
        jobs.append({"params": {**line.fields, **pictures}})
    return jobs


def _refused(fields: Sequence[WrongField], count: int) -> dict[int, str]:
    """Return why each of the refused lines is refused, by its place. Empty if the refusal is about something else."""
    found: dict[int, list[str]] = {}
    for one in fields:
        match = _OF_JOB.fullmatch(one.name)
        if match is not None and int(match[1]) < count:
            found.setdefault(int(match[1]), []).append(f"{match[2]}: {one.message}" if match[2] else one.message)
    return {place: "; ".join(messages) for place, messages in found.items()}
