"""Send changes to every dashboard that is connected to this process.

Changes are found by reading SQL when Redis reports one, and every two seconds in any case. So all web processes send
the same, and without Redis messages are only later. The feed stops while no dashboard is connected.
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

_PASS_SECONDS = 2.0
_METRICS_SECONDS = 5.0  # the metrics are sent this often, changed or not, as a heartbeat
_GATHER_SECONDS = 0.25  # changes within this time are sent together
_RETRY_SECONDS = 2.0
# A watcher that is this many subjects behind receives everything again instead.
_BEHIND = 400

# A change of these fields alone is not sent.
_MOVING = frozenset({"timestamp", "last_seen"})

Key = tuple[str, str]
"""(type of message, subject): a newer message replaces an older one that is still waiting."""


@dataclass(frozen=True)
class Update:
    """A message and its recipients: everyone, or the callers who may see the jobs of `owner`."""

    message: str
    private: bool = False
    owner: str | None = None
    otherwise: str | None = None  # the message for other callers, without private fields; None: no message

    def to(self, caller: Caller) -> str | None:
        return self.message if not self.private or caller.sees(self.owner) else self.otherwise


class Watcher:
    """The messages that wait for one client. Bounded: at most one message for each subject."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self._waiting: dict[Key, str] = {}
        self._ready = asyncio.Event()
        self.behind = True  # it must first receive everything

    def put(self, key: Key, update: Update) -> None:
        message = update.to(self.caller)
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
        """Wait until there are messages or `behind` is set, and return the messages."""
        await self._ready.wait()
        self._ready.clear()
        messages = list(self._waiting.values())
        self._waiting.clear()
        return messages


@dataclass(frozen=True)
class Source:
    """The reads behind the feed. Each is called in a thread and may raise Unavailable."""

    stirred: Callable[[Any], dict[str, tuple[Any, ...]]]  # time -> the changing fields of each job since then, by id
    jobs: Callable[[list[str]], dict[str, Any]]  # ids -> existing jobs as clients see them
    workers: Callable[[], dict[str, Any]]  # by device
    alerts: Callable[[list[str]], dict[str, Any]]  # ids -> the open alerts and those with these ids, by id
    metrics: Callable[[], Any]
    # The pauses in force by id, each with the key whose jobs it covers; None: everyone sees it.
    pauses: Callable[[], dict[str, tuple[str | None, Any]]] = dict
    preview_url: Callable[[str], str] = "/api/v1/jobs/{}/preview".format  # of a job, by its id


class Feed:
    def __init__(self, redis_url: str | None, source: Source) -> None:
        self._url = redis_url
        self._source = source
        self._watchers: set[Watcher] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._wake = asyncio.Event()
        self._ready = asyncio.Event()  # set after the first pass
        self._moved: set[str] = set()  # jobs whose progress was reported
        self._previews: dict[str, dict[str, Any]] = {}  # the latest preview of each job that has a new one
        self._seen: dict[str, tuple[Any, ...]] = {}
        self._current: dict[Key, Update] = {}  # the newest message about each subject that exists
        self._owners: dict[str, str | None] = {}  # of the jobs in `_seen`
        self._content: dict[Key, Any] = {}
        self._pause_keys: dict[str, str | None] = {}
        self._metrics_at = float("-inf")

    @contextlib.asynccontextmanager
    async def watch(self, caller: Caller) -> AsyncIterator[Watcher]:
        """Add a watcher, which receives every change that the caller may see."""
        watcher = Watcher(caller)
        self._watchers.add(watcher)
        if not self._tasks:
            self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._run())]
        watcher.wake()
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)
            if not self._watchers:
                await self.close()

    async def everything(self, caller: Caller) -> list[str]:
        """Return all current messages for a new client, metrics first."""
        await self._ready.wait()
        order = {
            "metrics_update": 0,
            "worker_update": 1,
            "alert": 2,
            "pause_update": 3,
            "job_update": 4,
            "preview_update": 5,
        }
        updates = (self._current[key] for key in sorted(self._current, key=lambda key: (order[key[0]], key[1])))
        return [message for update in updates if (message := update.to(caller)) is not None]

    async def close(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._ready.clear()
        self._seen.clear()
        self._owners.clear()
        self._current.clear()
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
                                self._receive(json.loads(message["data"]))
                except (RedisError, OSError, RuntimeError) as error:  # RuntimeError: as in `Streams._run`
                    log.debug("the feed is not subscribed to Redis: %s", error)
                except Exception:  # for example a malformed message, which must not end the subscription
                    log.exception("the feed could not read a message from Redis; subscribing again")
                await asyncio.sleep(_RETRY_SECONDS)

    def _receive(self, event: dict[str, Any]) -> None:
        if event.get("kind") == "progress":
            self._moved.add(str(event.get("job")))
        if event.get("kind") == "preview":
            self._previews[str(event.get("job"))] = event
        self._wake.set()

    async def _run(self) -> None:
        while True:
            try:
                await self._pass()
            except Unavailable as error:
                log.debug("the feed waits for the database: %s", error)
            except Exception:
                log.exception("a pass of the feed failed")
            began = time.monotonic()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PASS_SECONDS):
                    await self._wake.wait()
            await asyncio.sleep(max(0.0, _GATHER_SECONDS - (time.monotonic() - began)))
            self._wake.clear()

    async def _pass(self) -> None:
        moved, self._moved = self._moved, set()
        previews, self._previews = self._previews, {}
        first = not self._current
        since = clock.now() - timedelta(seconds=0 if first else 3 * _PASS_SECONDS)
        found = await anyio.to_thread.run_sync(self._source.stirred, since)
        changed = {job_id for job_id, state in found.items() if self._seen.get(job_id) != state}
        gone = {job_id for job_id, state in self._seen.items() if job_id not in found and state[1] not in JOB_ENDS}
        job_ids = [*(changed | gone | (moved & found.keys()))]
        jobs = await anyio.to_thread.run_sync(self._source.jobs, job_ids) if job_ids else {}
        workers = await anyio.to_thread.run_sync(self._source.workers)
        known = [about for kind, about in self._content if kind == "alert"]
        alerts = await anyio.to_thread.run_sync(self._source.alerts, known)
        pauses = await anyio.to_thread.run_sync(self._source.pauses)
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
            self._publish("metrics_update", "", metrics, anyway=True)
        for key, worker in workers.items():
            self._publish("worker_update", key, worker)
        for alert_id, alert in alerts.items():
            self._publish("alert", alert_id, alert, last=alert["resolved_at"] is not None)
        self._publish_pauses(pauses)
        self._ready.set()
        for job_id in job_ids:
            job = jobs.get(job_id, {"id": job_id, "deleted": True})
            over = "deleted" in job or job["finished_at"] is not None
            self._publish("job_update", job_id, job, last=over)
            if over:
                self._forget("preview_update", job_id)
        self._publish_previews(previews)

    def _publish_previews(self, previews: dict[str, dict[str, Any]]) -> None:
        """Send where the new previews of running jobs are. The page fetches the pictures, if it shows them."""
        for job_id, event in previews.items():
            state = self._seen.get(job_id)
            if state is None or state[1] in JOB_ENDS:
                continue  # it has ended, or changed too recently for this pass to know it
            numbers = {name: event.get(name) for name in ("attempt", "step", "steps")}
            url = f"{self._source.preview_url(job_id)}?attempt={numbers['attempt']}&step={numbers['step']}"
            data = {"job_id": job_id, **numbers, "url": url}
            self._publish("preview_update", job_id, data)

    def _publish_pauses(self, pauses: dict[str, tuple[str | None, Any]]) -> None:
        """Send new and changed pauses, and the ends of those that are over."""
        over = [about for kind, about in self._content if kind == "pause_update" and about not in pauses]
        for pause_id in over:
            self._publish("pause_update", pause_id, {"id": pause_id, "ended": True}, last=True)
            self._pause_keys.pop(pause_id, None)
        for pause_id, (key, pause) in pauses.items():
            self._pause_keys[pause_id] = key
            self._publish("pause_update", pause_id, pause)

    def _publish(self, kind: str, about: str, data: Any, *, last: bool = False, anyway: bool = False) -> None:
        """Send a message if its content is new, or `anyway`. `last`: new clients do not need it any more."""
        key = (kind, about)
        content = {name: value for name, value in data.items() if name not in _MOVING}
        if self._content.get(key) == content and not anyway:
            return
        update = self._update(kind, about, data)
        if last:
            self._forget(kind, about)
        else:
            self._content[key], self._current[key] = content, update
        for watcher in self._watchers:
            watcher.put(key, update)

    def _forget(self, kind: str, about: str) -> None:
        """Send no message about it to new clients any more."""
        self._content.pop((kind, about), None)
        self._current.pop((kind, about), None)

    def _update(self, kind: str, about: str, data: Any) -> Update:
        message = _message(kind, data)
        if kind in ("job_update", "preview_update"):
            return Update(message, private=True, owner=self._owners.get(about))
        if kind == "alert" and JOB_ID.fullmatch(data["subject"]):
            # The recipients of the open alert receive its end too, even if the job was deleted long ago.
            before = self._current.get((kind, about))
            owner = before.owner if before is not None else self._owners.get(data["subject"])
            return Update(message, private=True, owner=owner)
        if kind == "pause_update":
            key = self._pause_keys.get(about)
            return Update(message, private=key is not None, owner=key)
        running = data.get("job") if kind == "worker_update" else None
        if running is None:
            return Update(message)
        return Update(
            message, private=True, owner=self._owners.get(running), otherwise=_message(kind, data | {"job": None})
        )


def _message(kind: str, data: Any) -> str:
    return json.dumps({"type": kind, "data": data, "timestamp": clock.iso(clock.now())}, separators=(",", ":"))
