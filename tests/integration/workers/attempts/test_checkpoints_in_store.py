"""A generation that gives its device back on one node, and continues on another from the checkpoint in the store."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from shared.catalogue.job_types import GENERATION
from shared.cluster import nodes
from shared.database.engine import Database
from shared.database.tables import Job
from shared.errors import NotFound, Preempted, StoreUnavailable
from shared.jobs import attempts, dispatch, records
from shared.jobs.attempts import Claimant
from shared.messaging.progress import Progress, RestingRedis
from shared.settings import Settings
from shared.states import JobState
from shared.storage.store import Store, open_store
from tests.support.jobs import DEMO, UNCOUNTED, accepted, hold
from tests.support.models.generating import snapshots
from tests.support.servers.s3_server import S3Server, in_bucket
from workers.attempts.heartbeat import Heartbeat
from workers.attempts.runner import Runner
from workers.generation import run
from workers.generation.checkpoints import AttemptRow, Checkpoints
from workers.generation.job import GenerationHandler

ASKED_AFTER = 2


class Node:
    """One node with a disk of its own, and the store that it shares with the others."""

    def __init__(self, name: str, settings: Settings, database: Database, store: Store) -> None:
        self.name, self.database = name, database
        self.claimant = Claimant(node=name, worker=f"gpu-0@{name}", device="cpu-0", device_key=f"{name}/0")
        self.checkpoints = Checkpoints(settings.home)
        progress = Progress(RestingRedis(settings.redis))
        work = GenerationHandler(settings, database, DEMO, store, progress, self.claimant, "a CPU")
        self.runner = Runner(settings, database, self.claimant, {GENERATION: work}, UNCOUNTED)

    def run(self, job_id: str) -> Job:
        hold(self.database, *DEMO.model_ids, node=self.name)
        dispatch.mark_dispatched(self.database, [(job_id, self.claimant.device_key)])
        with suppress(Preempted):
            self.runner.run(GENERATION, job_id)
        run.free()
        return records.get(self.database, job_id)


@pytest.fixture(params=["directory", "bucket"])
def settings(request: pytest.FixtureRequest, settings: Settings, tmp_path: Path) -> Settings:
    models = snapshots()["T2V-A14B"].parent.parent.parent
    settings = settings.model_copy(update={"models_path": models, "checkpoints_in_store": True})
    if request.param == "bucket":
        server: S3Server = request.getfixturevalue("s3_server")
        return in_bucket(settings, server.url)
    return settings.model_copy(update={"store_path": tmp_path / "store"})


@pytest.fixture
def store(settings: Settings, database: Database) -> Store:
    return open_store(settings, lambda: nodes.agreed(database, "store"), create=True)


@pytest.fixture
def node(
    settings: Settings, database: Database, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Node]]:
    monkeypatch.setenv("WANWORKS_DEVICE", "cpu:0")
    monkeypatch.setattr(run, "_warm_models", None)

    def node(name: str) -> Node:
        here = settings.model_copy(update={"home": tmp_path / name, "node": name})
        return Node(name, here, database, store)

    yield node
    run.free()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """A request to yield after a step, for as many steps as it has entries."""
    left: list[bool] = []
    monkeypatch.setattr(AttemptRow, "asked_to_yield", lambda _self: bool(left and left.pop()))
    return left


def video(job: Job) -> str:
    assert job.status == JobState.SUCCEEDED, job.error
    (sha256,) = [one["sha256"] for one in (job.result or {})["artifacts"] if one["kind"] == "video"]
    return str(sha256)


def waiting(database: Database) -> str:
    return accepted(database, request={"steps": 4, "seed": 5}).id


def test_another_node_continues_from_the_store(
    node: Callable[[str], Node], database: Database, store: Store, asked: list[bool], tmp_path: Path
) -> None:
    one, two = node("one"), node("two")
    whole = video(one.run(waiting(database)))
    job_id = waiting(database)
    asked += [True, *[False] * (ASKED_AFTER - 1)]
    after = one.run(job_id)
    assert (after.status, after.failures, after.checkpoint_node) == (JobState.QUEUED, 0, "one")
    assert (after.checkpoint_step, after.checkpoint_stored_attempt) == (ASKED_AFTER, 1)
    store.fetch_checkpoint(job_id, 1, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == one.checkpoints.file(job_id).read_bytes()
    ended = two.run(job_id)
    assert ended.resumed_from_step == ASKED_AFTER
    assert video(ended) == whole
    assert two.checkpoints.job_ids() == []
    with pytest.raises(NotFound):
        store.fetch_checkpoint(job_id, 1, tmp_path / "copy")
    assert store.attempts(job_id) == [2], "only the winner's files are left"


def test_an_older_checkpoint_of_this_node_gives_way_to_that_of_the_store(
    node: Callable[[str], Node], database: Database, store: Store, asked: list[bool]
) -> None:
    one, two = node("one"), node("two")
    job_id = waiting(database)
    asked.append(True)
    assert one.run(job_id).checkpoint_step == 1
    asked += [True, False]
    assert two.run(job_id).checkpoint_step == 3
    with pytest.raises(NotFound):
        store.fetch_checkpoint(job_id, 1, two.checkpoints.root / "copy")
    assert one.run(job_id).resumed_from_step == 3


def test_without_the_store_it_starts_again(
    node: Callable[[str], Node], database: Database, store: Store, asked: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = node("one"), node("two")
    job_id = waiting(database)
    asked.append(True)

    def away(*_: object) -> None:
        raise StoreUnavailable()

    with monkeypatch.context() as patch:
        patch.setattr(type(store), "put_checkpoint", away)
        after = one.run(job_id)
    assert (after.checkpoint_step, after.checkpoint_stored_attempt) == (1, None)
    asked.append(True)
    assert one.run(job_id).checkpoint_stored_attempt == 2
    with monkeypatch.context() as patch:
        patch.setattr(type(store), "fetch_checkpoint", away)
        ended = two.run(job_id)
    assert (ended.status, ended.attempt) == (JobState.SUCCEEDED, 3)
    assert (ended.result or {})["resumed_from_step"] is None


def test_an_attempt_that_was_superseded_removes_what_it_has_stored(
    node: Callable[[str], Node], database: Database, store: Store, settings: Settings, tmp_path: Path
) -> None:
    job_id = waiting(database)
    hold(database, *DEMO.model_ids, node="one")
    claimed = []
    for name in ("one", "two"):
        claimant = Claimant(node=name, worker=f"gpu-0@{name}", device="cpu-0", device_key=f"{name}/0")
        hold(database, *DEMO.model_ids, node=name)
        dispatch.mark_dispatched(database, [(job_id, claimant.device_key)])
        job = attempts.claim(database, job_id, claimant, lease_seconds=60)
        assert job is not None
        claimed.append(job)
        if name == "one":
            attempts.give_back(database, job_id, job.attempt)
    file = tmp_path / "checkpoint"
    for job, content in zip(claimed[::-1], (b"second", b"first"), strict=True):
        file.write_bytes(content)
        row = AttemptRow(database, job, _Heartbeat(), store, file)  # type: ignore[arg-type]
        row.written(1)
    store.fetch_checkpoint(job_id, 2, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"second"
    with pytest.raises(NotFound):
        store.fetch_checkpoint(job_id, 1, tmp_path / "copy")
    assert records.get(database, job_id).checkpoint_stored_attempt == 2


class _Heartbeat(Heartbeat):
    """One that has nothing to say."""

    def __init__(self) -> None:
        self.is_preempted = False

    def yield_between_steps(self) -> None:
        pass

    def check(self) -> None:
        pass
