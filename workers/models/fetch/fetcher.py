"""Fetch one commit of a model into the cache: files in parallel, verified, linked, the branch moved last.

The caller's thread coordinates: it calls `check` and `limit`, reports progress, and closes the connections to stop.
If it stops early, received bytes remain in ``.incomplete`` files, and the next attempt continues from there.
"""

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from shared.errors import StoreFull
from shared.storage.disk import sync_folder
from workers.models.fetch.body import Stopped, Wire
from workers.models.fetch.layout import RepoCache, answering_full, free_bytes
from workers.models.fetch.limiter import OwnBucket, SharedBucket
from workers.models.fetch.plan import FetchPlan, FetchResult, FileProgress, Limits, Progress, RemoteFile
from workers.models.fetch.sharing import link_equal_files
from workers.models.fetch.transfer import Shared, fetch_file, inode, is_whole

log = logging.getLogger("wanworks.fetch")

_CHECK_SECONDS = 0.1  # between two calls of `check`
_REPORT_SECONDS = 0.25
_LIMIT_SECONDS = 0.5
_DISK_SECONDS = 1.0
_STOP_SECONDS = 0.7  # how long to wait for the threads to end
_RATE_SECONDS = 5.0  # over which the rate is measured


def fetch(
    plan: FetchPlan,
    *,
    report: Callable[[Progress], None],
    check: Callable[[], None],
    limit: Callable[[], Limits],
) -> FetchResult:
    """Fetch the plan's files that the cache lacks, and create the snapshot.

    `check` may raise to stop, which takes effect within a second on a silent connection too; `limit` gives the
    present bandwidth limits, twice a second; `report` is called at most four times a second and once at the end.
    Raises what those raise, subclasses of HubRefused, ChecksumMismatch, HubUnavailable after `patience_seconds` without
    a byte, StoreFull before the first byte if the rest would not fit, or later when the disk is full.
    """
    began = time.monotonic()
    check()
    cache = RepoCache(plan.models_dir, plan.repo)
    cache.create()
    blobs = {file.oid: file for file in plan.files}
    lacking = [file for file in blobs.values() if file.oid in plan.suspect or not is_whole(cache, file)]
    linked = link_equal_files(cache, (file for file in lacking if file.oid not in plan.suspect), check)
    if linked:
        log.info("%s: %.0f MB are shared with other models", plan.repo, linked / 1e6)
        lacking = [file for file in lacking if file.oid in plan.suspect or not is_whole(cache, file)]
    done = {oid: file.size for oid, file in blobs.items()} | {file.oid: _partial(cache, file) for file in lacking}
    _check_room(plan, cache, sum(file.size - done[file.oid] for file in lacking), plan.copies_bytes)
    with _node_bucket(plan) as node_bucket:
        suspect = {oid: inode(cache, oid) for oid in plan.suspect}
        shared = Shared(plan, cache, Wire(), OwnBucket(), node_bucket, done=done, suspect=suspect)
        shared.obey(limit())
        meter = _Meter(plan, shared, report)
        try:
            _run(shared, lacking, meter, check, limit)
            while lacking := [file for file in blobs.values() if not is_whole(cache, file)]:
                # A cleanup removed files that existed when this began.
                shared.wire = Wire()
                shared.obey(limit())
                _run(shared, lacking, meter, check, limit)
        finally:
            meter.report_now()
    with answering_full():
        sync_folder(cache.folder / "blobs")
        for file in plan.files:
            cache.link(plan.sha, file.path, file.oid)
        cache.move_ref(plan.revision, plan.sha)
    return FetchResult(
        snapshot=cache.snapshot(plan.sha),
        bytes_total=meter.total,
        bytes_fetched=shared.received,
        seconds=time.monotonic() - began,
        refetched=tuple(shared.refetched),
    )


def _run(
    shared: Shared,
    lacking: list[RemoteFile],
    meter: "_Meter",
    check: Callable[[], None],
    limit: Callable[[], Limits],
) -> None:
    """Fetch those files, largest first, and return when the last one is complete."""
    waiting = deque(sorted(lacking, key=lambda file: file.size, reverse=True))
    failures: list[BaseException] = []
    count = min(shared.plan.connections, len(lacking))
    ended = threading.Semaphore(0)

    def work() -> None:
        try:
            while True:
                try:
                    file = waiting.popleft()
                except IndexError:
                    return
                fetch_file(shared, file)
        except Stopped:
            return
        except BaseException as error:
            failures.append(error)
        finally:
            ended.release()

    threads = [threading.Thread(target=work, name=f"fetch-{place}", daemon=True) for place in range(count)]
    next_disk = time.monotonic()
    next_limit = next_disk + _LIMIT_SECONDS
    try:
        for thread in threads:
            thread.start()
        while count and not failures:
            count -= ended.acquire(timeout=_CHECK_SECONDS)
            check()
            now = time.monotonic()
            if now >= next_limit:
                shared.obey(limit())
                next_limit = now + _LIMIT_SECONDS
            if now >= next_disk:
                _check_room(shared.plan, shared.cache, 0)
                next_disk = now + _DISK_SECONDS
            meter.update(now)
    finally:
        shared.wire.stop()
        until = time.monotonic() + _STOP_SECONDS
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(0.0, until - time.monotonic()))
    if failures:
        raise failures[0]


class _Meter:
    """Counts the bytes on disk and their rate."""

    def __init__(self, plan: FetchPlan, shared: Shared, report: Callable[[Progress], None]) -> None:
        self._plan, self._shared, self._report = plan, shared, report
        self._seen: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])
        self._next = 0.0
        self.total = sum(file.size for file in plan.files)

    def update(self, now: float) -> None:
        """Report if a report is due."""
        if now >= self._next:
            self._next = now + _REPORT_SECONDS
            self.report_now()

    def report_now(self) -> None:
        now, received = time.monotonic(), self._shared.received
        self._seen.append((now, received))
        while len(self._seen) > 2 and now - self._seen[0][0] > _RATE_SECONDS:
            self._seen.popleft()
        since, before = self._seen[0]
        files = tuple(FileProgress(file.path, self._shared.done[file.oid], file.size) for file in self._plan.files)
        self._report(
            Progress(
                bytes_done=sum(file.done for file in files),
                bytes_total=self.total,
                received=received,
                bytes_per_second=(received - before) / max(now - since, 0.001),
                files=files,
            )
        )


def _partial(cache: RepoCache, file: RemoteFile) -> int:
    """Return how many bytes of the file an earlier attempt left."""
    try:
        size = cache.partial(file.oid).stat().st_size
    except FileNotFoundError:
        return 0
    return size if size <= file.size else 0


def _check_room(plan: FetchPlan, cache: RepoCache, needed: int, copies: int = 0) -> None:
    free = free_bytes(cache.folder)
    if free < needed + copies + plan.min_free_bytes:
        also = f" and {copies / 1e6:.0f} MB for copies of the weights" if copies else ""
        full = StoreFull(
            f"{plan.repo} needs {needed / 1e6:.0f} MB more{also}, and {plan.min_free_bytes / 1e6:.0f} MB must stay "
            f"free, but {free / 1e6:.0f} MB are free"
        )
        full.needed_bytes = needed + copies or None
        raise full


@contextlib.contextmanager
def _node_bucket(plan: FetchPlan) -> Iterator[SharedBucket | None]:
    bucket = SharedBucket(plan.bandwidth_file) if plan.bandwidth_file is not None else None
    try:
        yield bucket
    finally:
        if bucket is not None:
            bucket.close()
