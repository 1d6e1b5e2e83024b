"""One feed of everything that changes, for every dashboard that this process serves.

What changed is found by looking at SQL: when Redis says that something did, and every two seconds in any case. So all
web processes tell the same story, and a Redis that is away costs liveness, never truth. It sleeps while nobody watches.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import anyio.to_thread
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from api.access.caller import Caller
from api.http.query import JOB_ID
from shared import clock
from shared.errors import Unavailable
from shared.messaging.progress import FEED_CHANNEL
from shared.states import JOB_ENDS

log = logging.getLogger(__name__)

_LOOK_SECONDS = 2.0
_METRICS_SECONDS = 5.0  # and with the next look they are told, changed or not: the heartbeat
_GATHER_SECONDS = 0.25  # changes within this time are told together
_REST_SECONDS = 2.0
# A watcher that is this many subjects behind is told everything anew instead.
_BEHIND = 400

# These alone are no news.
_MOVING = frozenset({"timestamp", "last_seen"})

Key = tuple[str, str]
"""(type of message, what it is about): a newer message takes the place of an older one that still waits."""


@dataclass(frozen=True)
class Word:
    """A message, and whom it is for: everybody, or those who see the jobs of `owner`."""

    message: str
    private: bool = False
    owner: str | None = None
    otherwise: str | None = None  # for those who do not: the same without what they must not see; None: nothing

    def to(self, caller: Caller) -> str | None:
        return self.message if not self.private or caller.sees(self.owner) else self.otherwise


class Watcher:
    """What waits to be sent to one client: bounded, because each subject has at most one message in it."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self._waiting: dict[Key, str] = {}
        self._ready = asyncio.Event()
        self.behind = True  # it has to be told everything, first of all

    def put(self, key: Key, word: Word) -> None:
        message = word.to(self.caller)
        if self.behind or message is None:
            return
        self._waiting.pop(key, None)
        self._waiting[key] = message
        if len(self._waiting) > _BEHIND:
            self._waiting.clear()
            self.behind = True
        self._ready.set()

    def wake(self) -> None:
        self._ready.set()

    async def take(self) -> list[str]:
        """Everything that waits; returns once there is something, or `behind`."""
        await self._ready.wait()
        self._ready.clear()
        messages = list(self._waiting.values())
        self._waiting.clear()
        return messages


@dataclass(frozen=True)
class Source:
    """Where the figures come from: each is called in a thread, and may raise Unavailable."""

    stirred: Callable[[Any], dict[str, tuple[Any, ...]]]  # since when -> what can change of each job, by id
    jobs: Callable[[list[str]], dict[str, Any]]  # ids -> jobs as clients see them; those that are gone are left out
    workers: Callable[[], dict[str, Any]]  # by device
    alerts: Callable[[list[str]], dict[str, Any]]  # ids -> open alerts, and those of these ids, by id
    metrics: Callable[[], Any]


class Feed:
    def __init__(self, redis_url: str | None, source: Source) -> None:
        self._url = redis_url
        self._source = source
        self._watchers: set[Watcher] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._stir = asyncio.Event()
        self._looked = asyncio.Event()  # once since the first watcher came
        self._moved: set[str] = set()  # jobs whose progress was reported
        self._seen: dict[str, tuple[Any, ...]] = {}
        self._told: dict[Key, Word] = {}  # the newest message about everything there is now
        self._owners: dict[str, str | None] = {}  # of the jobs in `_seen`
        self._content: dict[Key, Any] = {}
        self._metrics_at = float("-inf")

    @contextlib.asynccontextmanager
    async def watch(self, caller: Caller) -> AsyncIterator[Watcher]:
        """A new watcher, told from now on of everything that the caller may see."""
        watcher = Watcher(caller)
        self._watchers.add(watcher)
        if not self._tasks:
            self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._pump())]
        watcher.wake()
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)
            if not self._watchers:
                await self.close()

    async def everything(self, caller: Caller) -> list[str]:
        """What a client that knows nothing is told, the figures first."""
        await self._looked.wait()
        order = {"metrics_update": 0, "worker_update": 1, "alert": 2, "job_update": 3}
        words = (self._told[key] for key in sorted(self._told, key=lambda key: (order[key[0]], key[1])))
        return [message for word in words if (message := word.to(caller)) is not None]

    async def close(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._looked.clear()
        self._seen.clear()
        self._owners.clear()
        self._told.clear()
        self._content.clear()
        self._metrics_at = float("-inf")

    async def _listen(self) -> None:
        if self._url is None:
            return
        client: Any = redis.asyncio.Redis.from_url(
            self._url, socket_connect_timeout=1, socket_keepalive=True, retry=Retry(NoBackoff(), 0)
        )
        async with client:
            while True:
                try:
                    async with client.pubsub() as channel:
                        await channel.subscribe(FEED_CHANNEL)
                        async for message in channel.listen():
                            if message["type"] == "message":
                                self._hear(json.loads(message["data"]))
                except (RedisError, OSError, RuntimeError) as error:  # RuntimeError: as in `Streams._ask`
                    log.debug("the feed is not heard: %s", error)
                except Exception:  # a message that is none of ours, say: what comes after it is still to be heard
                    log.exception("the feed could not be read; it is listened to again")
                await asyncio.sleep(_REST_SECONDS)

    def _hear(self, event: dict[str, Any]) -> None:
        if event.get("kind") == "progress":
            self._moved.add(str(event.get("job")))
        self._stir.set()

    async def _pump(self) -> None:
        while True:
            try:
                await self._look()
            except Unavailable as error:
                log.debug("the feed waits: %s", error)
            except Exception:
                log.exception("the feed could not look")
            began = time.monotonic()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._stir.wait()
            await asyncio.sleep(max(0.0, _GATHER_SECONDS - (time.monotonic() - began)))
            self._stir.clear()

    async def _look(self) -> None:
        moved, self._moved = self._moved, set()
        first = not self._told
        since = clock.now() - timedelta(seconds=0 if first else 3 * _LOOK_SECONDS)
        found = await anyio.to_thread.run_sync(self._source.stirred, since)
        changed = {job_id for job_id, state in found.items() if self._seen.get(job_id) != state}
        gone = {job_id for job_id, state in self._seen.items() if job_id not in found and state[1] not in JOB_ENDS}
        asked = [*(changed | gone | (moved & found.keys()))]
        jobs = await anyio.to_thread.run_sync(self._source.jobs, asked) if asked else {}
        workers = await anyio.to_thread.run_sync(self._source.workers)
        known = [about for kind, about in self._content if kind == "alert"]
        alerts = await anyio.to_thread.run_sync(self._source.alerts, known)
        now = time.monotonic()
        metrics = None
        if now - self._metrics_at >= _METRICS_SECONDS or any(jobs[one]["finished_at"] for one in jobs):
            metrics = await anyio.to_thread.run_sync(self._source.metrics)
            self._metrics_at = now
        self._seen = found
        self._owners = {job_id: state[-1] for job_id, state in found.items()} | {
            job_id: self._owners.get(job_id) for job_id in gone
        }
        if metrics is not None:
            self._tell("metrics_update", "", metrics, anyway=True)
        for key, worker in workers.items():
            self._tell("worker_update", key, worker)
        for alert_id, alert in alerts.items():
            self._tell("alert", alert_id, alert, last=alert["resolved_at"] is not None)
        self._looked.set()
        for job_id in asked:
            job = jobs.get(job_id, {"id": job_id, "deleted": True})
            self._tell("job_update", job_id, job, last="deleted" in job or job["finished_at"] is not None)

    def _tell(self, kind: str, about: str, data: Any, *, last: bool = False, anyway: bool = False) -> None:
        """Sends what is new. `last`: newcomers need not be told of it any more."""
        key = (kind, about)
        content = {name: value for name, value in data.items() if name not in _MOVING}
        if self._content.get(key) == content and not anyway:
            return
        word = self._word(kind, about, data)
        if last:
            self._content.pop(key, None)
            self._told.pop(key, None)
        else:
            self._content[key], self._told[key] = content, word
        for watcher in self._watchers:
            watcher.put(key, word)

    def _word(self, kind: str, about: str, data: Any) -> Word:
        message = _message(kind, data)
        if kind == "job_update":
            return Word(message, private=True, owner=self._owners.get(about))
        if kind == "alert" and JOB_ID.fullmatch(data["subject"]):
            # Whoever was told that it is open is told of its end, when the job has long been gone.
            before = self._told.get((kind, about))
            owner = before.owner if before is not None else self._owners.get(data["subject"])
            return Word(message, private=True, owner=owner)
        running = data.get("job") if kind == "worker_update" else None
        if running is None:
            return Word(message)
        return Word(
            message, private=True, owner=self._owners.get(running), otherwise=_message(kind, data | {"job": None})
        )


def _message(kind: str, data: Any) -> str:
    return json.dumps({"type": kind, "data": data, "timestamp": clock.iso(clock.now())}, separators=(",", ":"))
