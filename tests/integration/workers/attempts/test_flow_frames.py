"""A frame of one job as the input picture of another, on a worker's runner, with both kinds of store."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from shared.catalogue.job_types import GENERATION, FrameOf
from shared.cluster import nodes
from shared.database.engine import Database
from shared.database.tables import Flow, Job
from shared.errors import BadInput
from shared.jobs import dispatch
from shared.jobs.flows import accepting
from shared.messaging.progress import Progress, RestingRedis
from shared.settings import Settings
from shared.storage.store import Store, open_store
from tests.support import working
from tests.support.flows import Node, follow, job_of, new_flow, states
from tests.support.jobs import DEMO, UNCOUNTED, hold
from tests.support.servers.s3_server import in_bucket
from workers.attempts.runner import Runner
from workers.generation import run
from workers.generation.job import GenerationHandler


@pytest.fixture(params=["directory", "bucket"])
def store_settings(request: pytest.FixtureRequest, settings: Settings) -> Settings:
    if request.param == "directory":
        return settings
    return in_bucket(settings, request.getfixturevalue("s3_server").url)


@pytest.fixture
def store(store_settings: Settings, database: Database) -> Store:
    return open_store(store_settings, lambda: nodes.agreed(database, "store"), create=True)


@pytest.fixture
def runner(
    store_settings: Settings, store: Store, database: Database, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Runner]:
    monkeypatch.setenv("WANWORKS_DEVICE", "cpu:0")
    progress = Progress(RestingRedis(store_settings.redis))
    work = GenerationHandler(store_settings, database, DEMO, store, progress, working.HERE, "a CPU")
    yield Runner(store_settings, database, working.HERE, {GENERATION: work}, UNCOUNTED)
    run.free()


def two_shots(database: Database) -> Flow:
    """A flow of placeholders, whose second begins with the last frame of the first."""
    taken: dict[str, Any] = {"job": "one", "frame": "last"}
    new = new_flow(one=Node(), two=Node(("one",), frame_of=taken))
    changes: tuple[dict[str, Any], ...] = ({"keep_frames": ("last",)}, {"image_of": FrameOf(job="one")})
    made = [
        replace(node, job=replace(node.job, mock=True, params=node.job.params.model_copy(update=change)))
        for node, change in zip(new.nodes, changes, strict=True)
    ]
    return accepting.accept(database, replace(new, nodes=tuple(made))).flow


def carry_out(runner: Runner, database: Database, flow: Flow, name: str) -> Job:
    job = job_of(database, flow.id, name)
    hold(database, *DEMO.model_ids, node=working.HERE.node)
    dispatch.mark_dispatched(database, [(job.id, working.HERE.device_key)])
    assert runner.run(GENERATION, job.id)
    follow(database)
    return job_of(database, flow.id, name)


def test_the_second_job_is_made_from_the_frame_of_the_first(runner: Runner, database: Database, store: Store) -> None:
    flow = two_shots(database)
    one = carry_out(runner, database, flow, "one")
    (kept,) = [each for each in (one.result or {})["artifacts"] if each["kind"] == "frame"]
    reference = job_of(database, flow.id, "two").params["image"]
    content = store.input_file(reference, "another", 1).read_bytes()
    assert hashlib.sha256(content).hexdigest() == kept["sha256"]
    two = carry_out(runner, database, flow, "two")
    assert (two.result or {})["manifest"]["image_sha256"] == kept["sha256"]
    assert states(database, flow.id) == {"one": "succeeded", "two": "succeeded"}


def test_a_frame_that_is_gone_or_another_fails_the_job(
    runner: Runner, database: Database, store: Store, store_settings: Settings
) -> None:
    flow = two_shots(database)
    one = carry_out(runner, database, flow, "one")
    store.drop_job(one.id)
    with pytest.raises(BadInput, match="no longer exists"):
        carry_out(runner, database, flow, "two")
    follow(database)
    assert states(database, flow.id) == {"one": "succeeded", "two": "failed"}
    if store_settings.store_url is not None:
        return
    flow = two_shots(database)
    one = carry_out(runner, database, flow, "one")
    file = store_settings.store_dir / job_of(database, flow.id, "two").params["image"]
    file.write_bytes(b"another")
    with pytest.raises(BadInput, match="is not the frame"):
        carry_out(runner, database, flow, "two")
