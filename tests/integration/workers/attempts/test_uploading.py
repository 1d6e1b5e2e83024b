"""A worker's attempt and its bucket: the lease is kept while files are sent, a cancel stops it, a bucket that is away
costs the job nothing but time.
"""

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from sqlmodel import select, update

from shared.catalogue.job_types import GENERATION
from shared.cluster import nodes
from shared.database.engine import Database
from shared.database.tables import Job, Use, epoch_now
from shared.errors import Cancelled, Draining
from shared.jobs import dispatch, records
from shared.jobs.reading import running_attempts
from shared.messaging.progress import Progress, RestingRedis
from shared.settings import Settings
from shared.states import JobState
from shared.storage.store import Store, open_store
from tests.support import working
from tests.support.jobs import DEMO, UNCOUNTED, accepted, hold
from tests.support.servers.s3_server import Line, S3Server, in_bucket
from tests.support.stack import wait_for
from workers.attempts.runner import Runner
from workers.generation import run as generation
from workers.generation.context import GenerationContext
from workers.generation.job import GenerationHandler


@pytest.fixture
def line(s3_server: S3Server) -> Iterator[Line]:
    line = Line(s3_server.port)
    yield line
    line.close()


@pytest.fixture
def settings(settings: Settings, line: Line) -> Settings:
    more = {"store_patience_seconds": 0.5, "lease_seconds": 2.0, "heartbeat_seconds": 0.3}
    return in_bucket(settings, line.url, **more)


@pytest.fixture
def store(settings: Settings, database: Database) -> Store:
    return open_store(settings, lambda: nodes.agreed(database, "store"), create=True)


@pytest.fixture
def run(settings: Settings, database: Database, store: Store, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], bool]:
    """Run the job, as this device's worker does."""
    monkeypatch.setenv("WANWORKS_DEVICE", "cpu:0")
    progress = Progress(RestingRedis(settings.redis))
    work = GenerationHandler(settings, database, DEMO, store, progress, working.HERE, "a CPU")
    runner = Runner(settings, database, working.HERE, {GENERATION: work}, UNCOUNTED)

    def run(job_id: str) -> bool:
        hold(database, *DEMO.model_ids, node=working.HERE.node)
        dispatch.mark_dispatched(database, [(job_id, working.HERE.device_key)])
        return runner.run(GENERATION, job_id)

    return run


def files(server: S3Server, settings: Settings) -> list[str]:
    prefix = str(settings.store_url).rpartition("/")[2]
    return [key for key in server.objects(prefix) if "/artifacts/" in key]


def test_a_bucket_that_goes_away_gives_the_job_back(
    run: Callable[[str], bool], settings: Settings, database: Database, line: Line, s3_server: S3Server
) -> None:
    job_id = accepted(database, mock=True).id
    line.when["/video.mp4"] = lambda: setattr(line, "cut_after", 0)
    with pytest.raises(Draining):
        run(job_id)
    with database.read() as session:
        waits = session.exec(select(Job.not_before - epoch_now()).where(Job.id == job_id)).one()
    job = records.get(database, job_id)
    assert (job.status, job.attempt, job.failures, job.result) == (JobState.QUEUED, 1, 0, None)
    assert 20 < waits <= 30
    assert list((settings.home / "scratch").glob("job*")) == []
    line.cut_after = None
    with database.write() as session:
        session.connection().execute(update(Job).values(not_before=0.0))
    assert run(job_id)
    job = records.get(database, job_id)
    assert (job.status, job.attempt) == (JobState.SUCCEEDED, 2)
    assert len(files(s3_server, settings)) == 4
    assert all(f"/{job_id}/2/" in key for key in files(s3_server, settings))
    with database.read() as session:
        assert len(session.exec(select(Use).where(Use.job_id == job_id)).all()) == 1


def test_the_input_is_there_until_the_frames_are_decoded(
    run: Callable[[str], bool], database: Database, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = accepted(database, mock=True).id
    reference = store.put_input(job_id, "picture.png", b"pixels")
    with database.write() as session:
        job = session.get(Job, job_id)
        assert job is not None
        job.params = {**job.params, "image": reference}
    seen: list[bytes] = []
    mock = generation._mock

    def seeing(context: GenerationContext) -> object:
        assert context.image is not None
        seen.append(context.image.read_bytes())
        return mock(context)

    monkeypatch.setattr(generation, "_mock", seeing)
    assert run(job_id)
    assert seen == [b"pixels"]


def test_the_lease_is_kept_while_files_are_sent(run: Callable[[str], bool], database: Database, line: Line) -> None:
    job_id = accepted(database, mock=True).id
    began: list[float] = []

    def slowly() -> None:
        began.append(time.monotonic())
        line.pause_seconds = 1.2

    def as_before() -> None:
        began.append(time.monotonic())
        line.pause_seconds = 0.0

    line.when["/1/video.mp4"] = slowly
    line.when["/1/thumbnail.jpg"] = as_before
    lapsed: list[object] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            lapsed.extend(running_attempts.lapsed(database))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        assert run(job_id)
    finally:
        done.set()
        watching.join()
    assert began[1] - began[0] > 2.2, "it was not long enough to tell"
    assert lapsed == []
    assert records.get(database, job_id).status == JobState.SUCCEEDED


def test_a_cancel_stops_the_sending(
    run: Callable[[str], bool],
    settings: Settings,
    database: Database,
    store: Store,
    line: Line,
    s3_server: S3Server,
) -> None:
    job_id = accepted(database, mock=True).id
    asked_at: list[float] = []

    def cancel() -> None:
        line.hold = True
        asked_at.append(time.monotonic())
        threading.Thread(target=records.request_cancel, args=(database, job_id)).start()

    line.when["/thumbnail.jpg"] = cancel
    with pytest.raises(Cancelled):
        run(job_id)
    assert time.monotonic() - asked_at[0] < 6, "the bucket's silence held up the cancel"
    job = records.get(database, job_id)
    assert (job.status, job.result) == (JobState.CANCELLED, None)
    line.hold = False
    store.drop_attempt(job_id, 1)  # as the sweep does, since the bucket did not answer the worker
    assert wait_for(lambda: not files(s3_server, settings), 10)
