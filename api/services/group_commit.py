"""Group commit: every job that waits goes to disk in one transaction, and nobody is answered before it is there.

One commit costs a sync of the disk whether it carries one job or fifty, so under load many share it.
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
from shared.jobs import queues, records
from shared.jobs.records import NewJob

log = logging.getLogger(__name__)

_MOST_AT_ONCE = 128
# The queue is counted again once the last count is this many times as old as it took: 5 % of the time at most.
_COUNT_EVERY = 20


@dataclass(frozen=True)
class Committed:
    """A job on disk; `replayed`: it was there before. `position`: queued jobs before it."""

    job: Job
    replayed: bool
    position: int | None


@dataclass(frozen=True)
class _Asking:
    new: NewJob
    loop: asyncio.AbstractEventLoop
    answer: "asyncio.Future[Committed]"


class Commits:
    """The one thread that writes new jobs. `check_room` raises where the disk is too full to accept any."""

    def __init__(self, database: Database, check_room: Callable[[], None], accepted: Callable[[], None]) -> None:
        self._database = database
        self._check_room = check_room
        self._accepted = accepted
        self._queued: dict[int, int] = {}  # by rank of priority, as counted last and added to since
        self._count_at = float("-inf")
        self._asking: queue.SimpleQueue[_Asking | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="commits", daemon=True)
        self._thread.start()

    async def add(self, new: NewJob) -> Committed:
        """Returns when the job is on disk.

        Raises InvalidField (the key), LimitReached, StoreFull or DatabaseUnavailable.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Committed] = loop.create_future()
        self._asking.put(_Asking(new, loop, answer))
        return await answer

    def close(self) -> None:
        """Commits what waits and stops."""
        self._asking.put(None)
        self._thread.join(timeout=20)

    def _run(self) -> None:
        while (first := self._asking.get()) is not None:
            batch = [first]
            stop = False
            while len(batch) < _MOST_AT_ONCE and not stop:
                try:
                    following = self._asking.get_nowait()
                except queue.Empty:
                    break
                stop = following is None
                if following is not None:
                    batch.append(following)
            self._answer(batch, self._commit([asking.new for asking in batch]))
            if stop:
                return

    def _commit(self, new: Sequence[NewJob]) -> list[Committed | Exception]:
        try:
            self._check_room()
            outcome = records.accept(self._database, new)
        except Exception as error:
            if len(new) > 1 and not isinstance(error, WanworksError):
                # One of them cannot be written, so none was; the others shall not suffer for it.
                return [self._commit([one])[0] for one in new]
            return [error] * len(new)
        places: dict[str, int] = {}
        try:
            self._accepted()
            places = self._places(
                [one.job for one in outcome if isinstance(one, records.Accepted) and not one.replayed]
            )
        except Unavailable as error:
            log.info("jobs are accepted without their positions: %s", error)
        except Exception:  # they are on disk, and this thread serves all requests to come
            log.exception("jobs are accepted; what follows that has failed")
        return [
            Committed(one.job, one.replayed, places.get(one.job.id)) if isinstance(one, records.Accepted) else one
            for one in outcome
        ]

    def _places(self, fresh: Sequence[Job]) -> dict[str, int]:
        """How many stand before each of the jobs just committed. Raises DatabaseUnavailable."""
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
    def _answer(batch: Sequence[_Asking], outcome: Sequence[Committed | Exception]) -> None:
        def tell() -> None:
            for asking, one in zip(batch, outcome, strict=True):
                if asking.answer.done():
                    continue
                if isinstance(one, Exception):
                    asking.answer.set_exception(one)
                else:
                    asking.answer.set_result(one)

        try:
            batch[0].loop.call_soon_threadsafe(tell)
        except RuntimeError:  # the loop is gone: nobody is left to be told, and the jobs stand
            log.warning("%d answers were not wanted any more", len(batch))
