"""The removal of a backlog of expired jobs by retention runs: from a directory, and from a bucket."""

import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from scheduler import ticks
from scheduler.schedule import SCHEDULES
from shared.database.engine import Database, migrate
from shared.messaging import ticks as ticks_
from shared.settings import load
from shared.storage.directory import DirectoryStore
from shared.storage.store import Store, open_store
from tests.bench.large.scale import store as store_jobs
from tests.bench.support.row import Row
from tests.support.servers.s3_server import BUCKET, S3Server, in_bucket

BACKLOG = 100_000
_BOUND_SECONDS = 30 * 60.0
_FILES = ("video.mp4", "poster.webp", "manifest.json")


def retention(bench: Any) -> list[Row]:
    rows = [_directory(bench.folder / "directory")]
    server = S3Server(bench.folder / "s3" / "data").start()
    try:
        rows.append(_bucket(bench.folder / "bucket", server))
    finally:
        server.kill()
    return rows


def _directory(folder: Path) -> Row:
    database = _jobs(folder)
    store = DirectoryStore.opened(folder / "store", lambda: "bench", create=True)
    _files(database, folder / "store" / "artifacts")
    return _removed(database, store, "a directory")


def _bucket(folder: Path, server: S3Server) -> Row:
    database = _jobs(folder)
    store = open_store(in_bucket(load(home=folder), server.url, "backlog"), lambda: "bench", create=True)
    _files(database, server.folder / BUCKET / "backlog" / "artifacts")
    return _removed(database, store, "a bucket of a server on this machine")


def _jobs(folder: Path) -> Database:
    folder.mkdir(parents=True)
    url = f"sqlite:///{folder / 'wanworks.db'}"
    migrate(url)
    database = Database(url)
    store_jobs(database, ended=BACKLOG, queued=0)
    return database


def _files(database: Database, artifacts: Path) -> None:
    with database.read() as session:
        job_ids = session.connection().exec_driver_sql("SELECT id FROM jobs").scalars().all()
    for job_id in job_ids:
        attempt = artifacts / job_id / "1"
        attempt.mkdir(parents=True)
        for name in _FILES:
            (attempt / name).write_bytes(b"made")


def _removed(database: Database, store: Store, where: str) -> Row:
    """As beat has it done, without the waits between two ticks: those are counted."""
    every = next(one.every_seconds for one in SCHEDULES if one.name == "retention")
    took: list[float] = []
    left = BACKLOG
    while left and len(took) * every <= 2 * _BOUND_SECONDS:
        work: Callable[[ticks_.Run], str] = partial(_work, database, store)
        began = time.monotonic()
        ticks_.once(database, "retention", every, len(took) * every, work)
        took.append(time.monotonic() - began)
        with database.read() as session:
            left = session.connection().exec_driver_sql("SELECT count(*) FROM jobs").scalar_one()
    database.close()
    needed = (len(took) - 1) * every + took[-1]
    what = (
        f"a backlog of {BACKLOG:,} jobs with {len(_FILES)} files each is removed from {where} "
        f"({len(took)} ticks, the longest {max(took):.0f} s, {sum(took):.0f} s of work)"
    )
    holds = not left and needed <= _BOUND_SECONDS
    return Row(what, f"{needed / 60:.1f} min", f"<= {_BOUND_SECONDS / 60:.0f} min", holds)


def _work(database: Database, store: Store, run: ticks_.Run) -> str:
    return ticks.apply_retention(database, store, timedelta(0), run.has_time)
