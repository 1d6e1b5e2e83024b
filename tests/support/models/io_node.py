"""A node with models for tests: tiny repos in its cache; its io worker's jobs run in this process."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from shared.catalogue.job_types import (
    CLEANUP,
    DOWNLOAD,
    INTEGRITY_CHECK,
    PREPARE,
    CleanupParams,
    DownloadParams,
    IntegrityCheckParams,
    PrepareParams,
)
from shared.cluster import nodes
from shared.database.engine import Database
from shared.database.tables import Job, Replica
from shared.errors import AttemptStopped, JobFailed
from shared.jobs import accepting, dispatch, records
from shared.jobs.accepting import NewJob
from shared.jobs.attempts import Claimant
from shared.messaging import celery
from shared.messaging.progress import RestingRedis
from shared.models import replicas
from shared.models.prepared import Form
from shared.settings import Settings
from shared.states import Priority
from shared.storage.store import open_store
from tests.support.jobs import DEMO, UNCOUNTED
from tests.support.models.repos import make_repo
from workers.attempts.runner import Handler, Runner
from workers.models import presence
from workers.models.cleanup import CleanupHandler
from workers.models.download import DownloadHandler
from workers.models.integrity import IntegrityHandler
from workers.models.prepare import PrepareHandler

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


def weights(size: int) -> bytes:
    """A safetensors file with one tensor of that many random bytes."""
    header = json.dumps({"x": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header + os.urandom(size)


def files(size: int = 100_000) -> dict[str, bytes | int]:
    """The files of a model: its index, a transformer, a VAE, and one that no index names."""
    index = {"_class_name": "WanPipeline", "transformer": ["diffusers", "X"], "vae": ["diffusers", "Y"]}
    config = json.dumps({"random": os.urandom(4).hex()}).encode()
    return {
        "model_index.json": json.dumps(index).encode(),
        "transformer/config.json": config,
        WEIGHTS: weights(size),
        "vae/config.json": config,  # the same blob under two paths
        "vae/diffusion_pytorch_model.safetensors": weights(1000),
        "notes.txt": b"read me",
    }


def make_model(models: Path, model_id: str = "T2V-A14B", size: int = 100_000) -> Path:
    """Write a new revision of the model and serve it. Return its snapshot folder."""
    make_repo(models, DEMO.get(model_id).repo, files(size))
    snapshot = replicas.snapshot_dir(models, DEMO.get(model_id))
    assert snapshot is not None
    return snapshot


class Node:
    """A node's io worker without Celery: it runs dispatched jobs at once."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.settings = settings
        self.database = database
        self.models = settings.models_dir
        self.models.mkdir(parents=True, exist_ok=True)
        self.key = celery.node_key(settings.node)
        self.claimant = Claimant(node=settings.node, worker=f"io@{settings.node}", device=None, device_key=self.key)
        self.redis = RestingRedis(settings.redis)
        self.store = open_store(settings, lambda: "test", create=True)
        self.integrity = IntegrityHandler(settings, database, DEMO, self.redis)
        nodes.node_beat(database, settings.node, None, None, celery.PROTOCOL)  # an unknown node claims nothing
        self.cleanup = CleanupHandler(settings, database, DEMO, self.store, self.redis)

        self.download_handler = DownloadHandler(settings, database, DEMO, self.redis, UNCOUNTED)
        self.prepare_handler = PrepareHandler(settings, database, DEMO, self.redis)

    def scan(self) -> None:
        """The presence scan."""
        presence.scan(self.settings, self.database, DEMO, self.redis)

    def check(self, model_id: str | None = "T2V-A14B", **params: Any) -> Job:
        """An integrity check, to its end."""
        asked = IntegrityCheckParams(model_id=model_id, node=self.settings.node, **params)
        return self.run(self.accept(INTEGRITY_CHECK, asked))

    def download(self, model_id: str = "T2V-A14B") -> Job:
        """A download of the model, to its end."""
        return self.run(self.accept(DOWNLOAD, DownloadParams(model_id=model_id, node=self.settings.node)))

    def prepare(self, model_id: str = "T2V-A14B", quantization: Form = "bf16") -> Job:
        """A preparation of the model, to its end."""
        asked = PrepareParams(model_id=model_id, node=self.settings.node, quantization=quantization)
        return self.run(self.accept(PREPARE, asked))

    def clean(self, **params: Any) -> dict[str, Any]:
        """A cleanup that executes, to its end; its result."""
        asked = CleanupParams(node=self.settings.node, **{"dry_run": False, **params})
        job = self.run(self.accept(CLEANUP, asked))
        assert job.status == "succeeded", job.error
        assert job.result is not None
        return job.result

    def accept(self, type: str, params: Any) -> Job:
        (outcome,) = accepting.accept(self.database, [NewJob(type, params, Priority.NORMAL)])
        assert isinstance(outcome, accepting.Accepted)
        return outcome.job

    def run(self, job: Job) -> Job:
        handlers: dict[str, Handler] = {
            INTEGRITY_CHECK: self.integrity,
            CLEANUP: self.cleanup,
            DOWNLOAD: self.download_handler,
            PREPARE: self.prepare_handler,
        }
        dispatch.mark_dispatched(self.database, [(job.id, self.key)])
        with contextlib.suppress(JobFailed, AttemptStopped):  # the row says it
            assert Runner(self.settings, self.database, self.claimant, handlers, UNCOUNTED).run(job.type, job.id)
        return records.get(self.database, job.id)

    def replica(self, model_id: str = "T2V-A14B") -> Replica:
        with self.database.read() as session:
            row = session.get(Replica, (self.settings.node, model_id))
        assert row is not None
        return row
