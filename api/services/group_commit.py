"""Group commit: commit all waiting jobs in one transaction. No request is answered before its commit.

A commit costs one disk sync for any number of jobs, so under load many jobs share it.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shared.database.engine import Database
from shared.database.tables import Job
from shared.errors import Unavailable, WanworksError
from shared.jobs import accepting
from shared.jobs.accepting import NewJob
from shared.jobs.reading import queues

log = logging.getLogger(__name__)

_MAX_BATCH = 128
# The queue is counted again when the last count is older than this many times its duration: at most 5 % of the time.
_COUNT_EVERY = 20


@dataclass(frozen=True)
class Committed:
    """A committed job. `replayed`: an earlier request created it. `position`: the number of queued jobs before it."""

    job: Job
    replayed: bool
    position: int | None


@dataclass(frozen=True)
class _Waiting:
    new: NewJob
    loop: asyncio.AbstractEventLoop
    answer: "asyncio.Future[Committed]"


class Commits:
    """The thread that writes new jobs. `check_room` raises if the disk is too full to accept jobs."""

    def __init__(self, database: Database, check_room: Callable[[], None], accepted: Callable[[], None]) -> None:
        self._database = database
        self._check_room = check_room
        self._accepted = accepted
        self._queued: dict[int, int] = {}  # by rank of priority: the last count plus the jobs added since
        self._count_at = float("-inf")
        self._asking: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="commits", daemon=True)
        self._thread.start()

    async def add(self, new: NewJob) -> Committed:
        """Commit the job, and return when it is on disk.

        Raises InvalidField (the Idempotency-Key), LimitReached, StoreFull or DatabaseUnavailable.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Committed] = loop.create_future()
        self._asking.put(_Waiting(new, loop, answer))
        return await answer

    def close(self) -> None:
        """Commit the waiting jobs and stop the thread."""
        self._asking.put(None)
        self._thread.join(timeout=20)

    def _run(self) -> None:
        while (first := self._asking.get()) is not None:
            batch = [first]
            stop = False
            while len(batch) < _MAX_BATCH and not stop:
                try:
                    following = self._asking.get_nowait()
                except queue.Empty:
                    break
                stop = following is None
                if following is not None:
                    batch.append(following)
            self._answer(batch, self._commit([one.new for one in batch]))
            if stop:
                return

    def _commit(self, new: Sequence[NewJob]) -> list[Committed | Exception]:
        try:
            self._check_room()
            outcome = accepting.accept(self._database, new)
        except Exception as error:
            if len(new) > 1 and not isinstance(error, WanworksError):
                # One job failed, so the transaction was rolled back: commit them one by one.
                return [self._commit([one])[0] for one in new]
            return [error] * len(new)
        places: dict[str, int] = {}
        try:
            self._accepted()
            places = self._places(
                [one.job for one in outcome if isinstance(one, accepting.Accepted) and not one.replayed]
            )
        except Unavailable as error:
            log.info("jobs were accepted, but their queue positions could not be read: %s", error)
        except Exception:  # the jobs are committed, and the thread must go on
            log.exception("jobs were accepted, but a step after the commit failed")
        return [
            Committed(one.job, one.replayed, places.get(one.job.id)) if isinstance(one, accepting.Accepted) else one
            for one in outcome
        ]

    def _places(self, fresh: Sequence[Job]) -> dict[str, int]:
        """Return the number of queued jobs before each committed job. Raises DatabaseUnavailable."""
        started = time.monotonic()
        if started >= self._count_at:
            self._queued = queues.queued_by_priority(self._database)
            took = time.monotonic() - started
            self._count_at = started + took * _COUNT_EVERY
        else:
            for job in fresh:
                self._queued[job.priority] = self._queued.get(job.priority, 0) + 1
        behind: dict[int, int] = {}
        places = {}
        for job in reversed(fresh):
            behind[job.priority] = behind.get(job.priority, 0) + 1
            ahead = sum(count for rank, count in self._queued.items() if rank <= job.priority)
            places[job.id] = max(0, ahead - behind[job.priority])
        return places

    @staticmethod
    def _answer(batch: Sequence[_Waiting], outcome: Sequence[Committed | Exception]) -> None:
        def resolve() -> None:
            for waiting, result in zip(batch, outcome, strict=True):
                if waiting.answer.done():
                    continue
                if isinstance(result, Exception):
                    waiting.answer.set_exception(result)
                else:
                    waiting.answer.set_result(result)

        try:
            batch[0].loop.call_soon_threadsafe(resolve)
        except RuntimeError:  # the event loop is closed, so no client waits any more; the jobs remain
            log.warning("%d jobs were committed after the event loop closed", len(batch))
